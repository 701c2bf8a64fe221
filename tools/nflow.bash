# bash completion for nflow: commands and options as the program itself lists them, then files.

_nflow() {
    local current=${COMP_WORDS[COMP_CWORD]} previous=${COMP_WORDS[COMP_CWORD - 1]} program=${COMP_WORDS[0]} command=${COMP_WORDS[1]} choices
    COMPREPLY=()
    if [ "$COMP_CWORD" -eq 1 ]; then
        choices=$("$program" --help 2>/dev/null | sed -n 's/^  \([a-z]*\)  .*/\1/p')
        mapfile -t COMPREPLY < <(compgen -W "$choices help --help --version" -- "$current")
        return
    fi
    if [ "$command" = help ]; then
        choices=$("$program" --help 2>/dev/null | sed -n 's/^  \([a-z]*\)  .*/\1/p')
        mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$current")
        return
    fi
    # "--flow=planar" is three words here
    if [ "$current" = = ]; then current=; elif [ "$previous" = = ]; then previous=${COMP_WORDS[COMP_CWORD - 2]}; fi
    case $previous in
    -*) # the words of a choice: "--flow realnvp|planar"
        choices=$("$program" "$command" --help 2>/dev/null | sed -n "s/^ *\(-., \)\{0,1\}\(--[a-z0-9-]*\) \([a-z]*|[a-z|]*\).*/\1\2 \3/p" |
            grep -e "${previous}[ ,]" | sed 's/.* //' | tr '|' ' ')
        if [ -n "$choices" ]; then
            mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$current")
            return
        fi
        ;;
    esac
    if [[ $current == -* ]]; then
        choices=$("$program" "$command" --help 2>/dev/null | grep -oE '^ +(-., )?--[a-z0-9-]+' | grep -oE -- '--[a-z0-9-]+')
        mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$current")
        return
    fi
    if [ "$command" = data ] && [ "$COMP_CWORD" -eq 2 ]; then
        choices=$("$program" data --list 2>/dev/null | sed 's/ .*//')
        mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$current")
        return
    fi
    mapfile -t COMPREPLY < <(compgen -f -- "$current")
}

complete -o filenames -F _nflow nflow
