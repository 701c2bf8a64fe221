# The header as Doxygen wants it: plain C comments become documentation.
#
#   - The comment at the top documents the file; its capitals become a section, its run-in headings ("Threads.  A const ...") headings.
#   - A line "/* ---- Title ---- */" begins a group, which ends where the next one begins.
#   - A comment before a declaration documents it, and all declarations that follow it without a blank line or a comment between.
#   - A comment behind a declaration, member or value documents that; of members that are declared together, each.
# Characters that Doxygen would take for commands or tags are escaped. Code is passed through as it is.

function escape(text) {
    gsub(/&/, "\\&amp;", text)
    gsub(/</, "\\&lt;", text)
    gsub(/>/, "\\&gt;", text)
    gsub(/[\\@#%]/, "\\\\&", text)
    return text
}

# Comments within a line of code: the one behind it documents it.
function code(line,    at) {
    if (!match(line, /[;,{] *\/\*/) && !match(line, /^ +NF_[A-Z0-9_]+ = [-0-9]+ *\/\*/)) # the last value of an enum has no comma
        return line
    at = RSTART + RLENGTH - 1
    trailing = substr(line, at) !~ /\*\//
    return substr(line, 1, at) "*<" escape(substr(line, at + 1))
}

# Members that share a line and a comment, one a line: Doxygen would give the comment to the last alone.
function members(line,    at, type, names, count, text, i) {
    at = index(line, ";")
    if (!match(line, /^    [a-z_0-9]+ [a-z_0-9]+, [^;(]*; *\/\*/) || substr(line, at) !~ /\*\/$/)
        return code(line)
    match(line, /^    [a-z_0-9]+ /)
    type = substr(line, 1, RLENGTH)
    count = split(substr(line, RLENGTH + 1, at - RLENGTH - 1), names, ", ")
    for (i = 1; i <= count; i++)
        text = text (i > 1 ? "\n" : "") code(type names[i] substr(line, at))
    return text
}

function heading(line) {
    if (line ~ /^ \* [A-Z]+$/)
        return " * @section " tolower(substr(line, 4)) " " substr(line, 4, 1) tolower(substr(line, 5))
    if (match(line, /^ \* [A-Z][a-z-]+( [a-z]+)*\.  /))
        return " * @par " substr(line, 4, RLENGTH - 6) "\n * " escape(substr(line, RLENGTH + 1))
    return escape(line)
}

NR == 1 {
    print "/** @file"
    top = 1
    next
}
top {
    top = $0 !~ /\*\//
    print top ? heading($0) : $0
    next
}
trailing {
    trailing = $0 !~ /\*\//
    print escape($0)
    next
}
reading {
    comment = comment "\n" escape($0)
    reading = $0 !~ /\*\//
    next
}
/^\/\* ---- / {
    title = $0
    gsub(/^\/\* -+ | -+ \*\/$/, "", title)
    id = tolower(title)
    gsub(/[^a-z]+/, "_", id)
    print (open++ ? "/** @} */\n" : "") "/** @defgroup " id " " title "\n * @{ */"
    comment = ""
    next
}
/^\/\*/ {
    comment = "/**" escape(substr($0, 3))
    reading = $0 !~ /\*\//
    next
}
/^#ifdef __cplusplus/ && open {
    print "/** @} */"
    open = 0
}
/^$/ { comment = "" }
# A declaration at the outermost level begins in the first column, and is no continuation.
/^(NF_API|typedef|#define)/ && comment != "" { print comment }
{ print members($0) }
