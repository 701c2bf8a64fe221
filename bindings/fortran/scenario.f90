! The scenario of bindings/tests/scenario.c, and what is Fortran's own: text of errors, arguments left out.
! usage: scenario MODEL
module callbacks
    use nflow
    implicit none
contains
    integer(c_int) function note(user, progress) bind(C)
        type(c_ptr), value :: user
        type(nf_fit_progress), intent(in) :: progress
        real(c_double), pointer :: epochs
        call c_f_pointer(user, epochs)
        epochs = epochs + real(progress%epoch, c_double)
        note = 0
    end function

    ! The standard normal without its constant.
    integer(c_int) function normal(user, rows, x, log_density, grad_x) bind(C)
        type(c_ptr), value :: user
        integer(c_size_t), value :: rows
        real(c_double), intent(in) :: x(2, rows)
        real(c_double), intent(inout) :: log_density(rows), grad_x(2, rows)
        log_density = -0.5d0*(x(1, :)*x(1, :) + x(2, :)*x(2, :))
        grad_x = -x
        normal = NF_OK
        if (c_associated(user)) normal = NF_ERR_ARGUMENT
    end function

    integer(c_int) function decay(user, count, row, t, y, dydt) bind(C)
        type(c_ptr), value :: user
        integer(c_size_t), value :: count
        integer(c_size_t), intent(in) :: row(count)
        real(c_double), intent(in) :: t(count), y(count)
        real(c_double), intent(inout) :: dydt(count)
        real(c_double), pointer :: rate(:)
        call c_f_pointer(user, rate, [2])
        dydt = -rate(row + 1)*y ! rows count from 0
        decay = merge(NF_OK, NF_ERR_ARGUMENT, all(t >= 0))
    end function

    ! Rows by callback: user points to all of them.
    integer(c_int) function rows_of(user, count, row, x, context) bind(C)
        type(c_ptr), value :: user
        integer(c_size_t), value :: count
        integer(c_size_t), intent(in) :: row(count)
        real(c_double), intent(out) :: x(*)
        real(c_double), intent(out), optional :: context(*)
        real(c_double), pointer :: all_rows(:, :)
        integer :: i
        call c_f_pointer(user, all_rows, [2, 400])
        do i = 1, int(count)
            x(2*i - 1:2*i) = all_rows(:, row(i) + 1)
        end do
        rows_of = merge(NF_ERR_ARGUMENT, NF_OK, present(context))
    end function

    integer(c_int) function refusing(user, count, row, t, y, dydt) bind(C)
        type(c_ptr), value :: user
        integer(c_size_t), value :: count
        integer(c_size_t), intent(in) :: row(count)
        real(c_double), intent(in) :: t(count), y(count)
        real(c_double), intent(inout) :: dydt(count)
        dydt = y*t*real(row, c_double)
        refusing = merge(NF_ERR_UNSUPPORTED, NF_OK, .not. c_associated(user))
    end function
end module

program scenario
    use callbacks
    use, intrinsic :: iso_fortran_env, only: error_unit
    implicit none
    integer(c_size_t), parameter :: rows = 400, draws = 100
    real(c_double), target :: x(2, rows)
    type(nf_realnvp_config) :: config
    type(c_ptr) :: flow, loaded
    character(len=1000) :: model

    call get_command_argument(1, model)
    call draw_data()
    call nf_init(config)
    config%dim = 2; config%couplings = 4; config%hidden_width = 16; config%seed = 7
    call must(nf_realnvp_create(config, flow))
    call train()
    call must(nf_flow_save(flow, nf_path(model)))
    call must(nf_flow_load(nf_path(model), loaded))
    call use_flow()
    call approximate()
    call beside()
    call use_sections()
    call refuse()
    call nf_flow_free(flow)
    call nf_flow_free(loaded)

contains

    subroutine must(status)
        integer(c_int), intent(in) :: status
        if (status == NF_OK) return
        write (error_unit, '(3a)') nf_text(nf_status_name(status)), ": ", nf_message()
        stop 1
    end subroutine

    subroutine print_bits(name, values)
        character(len=*), intent(in) :: name
        real(c_double), intent(in) :: values(:)
        integer :: i
        do i = 1, size(values)
            print '(a,1x,i0,1x,z16.16)', name, i - 1, transfer(values(i), 0_c_int64_t)
        end do
    end subroutine

    subroutine draw_data()
        type(nf_planar_config) :: planar
        type(nf_rng) :: rng
        type(c_ptr) :: source
        call nf_init(planar)
        planar%dim = 2; planar%layers = 2; planar%seed = 11
        rng = nf_rng(5, 6, 0)
        call must(nf_planar_create(planar, source))
        call must(nf_flow_set_base_normal(source, [1d0, -2d0], [2d0, 0.5d0]))
        call must(nf_sample(source, c_null_ptr, rng, rows, x=x))
        if (rng%position /= rows) stop 2
        call nf_flow_free(source)
    end subroutine

    subroutine train()
        type(nf_fit_config) :: fit
        type(nf_fit_report) :: report
        type(nf_optimizer_config), target :: adam
        real(c_double), target :: epochs
        epochs = 0
        call nf_init(fit)
        call nf_init(report)
        call nf_init(adam)
        adam%kind = NF_ADAM; adam%learning_rate = 0.01d0
        fit%epochs = 5; fit%batch_size = 50; fit%threads = 2; fit%seed = 3; fit%optimizer = c_loc(adam)
        fit%progress = c_funloc(note); fit%progress_user = c_loc(epochs)
        call must(nf_fit(flow, rows, x, config=fit, report=report))
        call print_bits("epochs", [epochs])
        call print_bits("best", [report%best_loss])
        call train_by_callback(fit, report%best_loss)
    end subroutine

    ! The same fit of a clone that never saw the array.
    subroutine train_by_callback(fit, expected)
        type(nf_fit_config), intent(in) :: fit
        real(c_double), intent(in) :: expected
        type(nf_fit_config) :: by_callback
        type(nf_fit_report) :: report
        type(c_ptr) :: copy
        real(c_double), target :: ignored
        ignored = 0
        call nf_init(report)
        call must(nf_realnvp_create(config, copy))
        by_callback = fit
        by_callback%progress_user = c_loc(ignored)
        by_callback%read = c_funloc(rows_of)
        by_callback%read_user = c_loc(x)
        call must(nf_fit(copy, rows, config=by_callback, report=report))
        if (transfer(report%best_loss, 0_c_int64_t) /= transfer(expected, 0_c_int64_t)) stop 8
        call nf_flow_free(copy)
    end subroutine

    subroutine use_flow()
        real(c_double), dimension(2, draws) :: sample, z, score
        real(c_double), dimension(draws) :: log_prob, log_det
        type(nf_rng) :: rng
        type(c_ptr) :: ws
        rng = nf_rng(1, 2, 0)
        call must(nf_workspace_create(loaded, 2_c_size_t, ws))
        call must(nf_sample(loaded, ws, rng, draws, x=sample, log_prob=log_prob))
        call print_bits("x", reshape(sample, [2*draws]))
        call print_bits("log_prob", log_prob)
        call must(nf_inverse(loaded, ws, draws, sample, z=z, log_det=log_det))
        call print_bits("z", reshape(z, [2*draws]))
        call print_bits("log_det", log_det)
        call must(nf_score(loaded, ws, draws, sample, log_prob=log_prob, score=score))
        call print_bits("score", reshape(score, [2*draws]))
        call nf_workspace_free(ws)
    end subroutine

    subroutine approximate()
        type(nf_radial_config) :: radial
        type(nf_reverse_kl_config) :: fit
        type(c_ptr) :: q
        real(c_double) :: parameters(4)
        call nf_init(radial)
        call nf_init(fit)
        radial%dim = 2; radial%seed = 2
        fit%steps = 20; fit%samples = 32; fit%seed = 9
        call must(nf_radial_create(radial, q))
        call must(nf_fit_reverse_kl(q, c_funloc(normal), c_null_ptr, fit))
        call must(nf_get_parameters(q, parameters))
        call print_bits("reverse_kl", parameters(:nf_parameter_count(q)))
        call nf_flow_free(q)
    end subroutine

    subroutine beside()
        type(nf_mlp_config) :: net
        type(c_ptr) :: mlp
        real(c_double) :: y(3, 4), decays(2)
        real(c_double), target :: rate(2)
        decays = 1
        rate = [1d0, 2d0]
        call nf_init(net)
        net%inputs = 2; net%outputs = 3; net%hidden_width = 8; net%seed = 4
        call must(nf_mlp_create(net, mlp))
        call must(nf_mlp_forward(mlp, c_null_ptr, 4_c_size_t, x, y))
        call print_bits("mlp", reshape(y, [12]))
        call nf_mlp_free(mlp)
        call must(nf_ode_solve(rows=2_c_size_t, size=1_c_size_t, f=c_funloc(decay), user=c_loc(rate), t0=0d0, t1=1d0, y=decays, &
            times=0_c_size_t))
        call print_bits("ode", decays)
    end subroutine

    ! Parts of arrays that do not lie together, as arguments and results: the bits of whole ones, and nothing beside them is touched.
    subroutine use_sections()
        real(c_double), target :: wide(5, 2*draws), mapped(5, 2*draws), log_det_of(3*draws)
        real(c_double), pointer :: part(:, :)
        real(c_double) :: z(2, draws), log_det(draws)
        wide = -99; mapped = -99; log_det_of = -99
        wide(2:4:2, ::2) = x(:, :draws)
        call must(nf_inverse(flow, c_null_ptr, draws, x, z=z, log_det=log_det))
        call must(nf_inverse(flow, c_null_ptr, draws, wide(2:4:2, ::2), z=mapped(2:4:2, ::2), log_det=log_det_of(2::3)))
        if (any(abs(mapped(2:4:2, ::2) - z) > 0) .or. any(abs(log_det_of(2::3) - log_det) > 0)) stop 9
        if (count(mapped > -99) /= 2*draws .or. count(log_det_of > -99) /= draws) stop 10
        part => wide(2:4:2, 2*draws - 1:1:-2)
        call must(nf_inverse(flow, c_null_ptr, draws, part, z=z, log_det=log_det))
        if (any(abs(log_det_of(3*draws - 1:1:-3) - log_det) > 0)) stop 11
        call must(nf_inverse(flow, c_null_ptr, 0_c_size_t, part(:, 1:0)))
    end subroutine

    ! Failures come as statuses, with a line that names the argument; no handle is made.
    subroutine refuse()
        type(nf_realnvp_config) :: bad
        type(nf_diagnose_report) :: report
        type(c_ptr) :: none, again
        character(len=10000) :: text
        integer(c_size_t) :: length
        real(c_double) :: y(1)
        y = 1
        call expect(nf_realnvp_create(bad, none), NF_ERR_ARGUMENT, "struct_size")
        call expect(nf_flow_load(nf_path("/nonexistent/model"), none), NF_ERR_IO, "/nonexistent/model")
        if (c_associated(none)) stop 3
        call expect(nf_flow_save(flow, nf_path(trim(model)//c_null_char//".of another name")), NF_ERR_IO)
        call expect(nf_flow_load(nf_path(trim(model)//c_null_char//".of another name"), none), NF_ERR_IO)
        call must(nf_flow_load(nf_path(trim(model)//c_null_char//"  "), again)) ! has C's end already
        call nf_flow_free(again)
        call expect(nf_ode_solve(rows=1_c_size_t, size=1_c_size_t, f=c_funloc(refusing), user=c_null_ptr, t0=0d0, t1=1d0, y=y, &
            times=0_c_size_t), NF_ERR_UNSUPPORTED)
        call nf_init(report)
        length = nf_diagnose_text(report, text, len(text, c_size_t))
        if (length == 0 .or. index(text(:length), "round") == 0) stop 4
        if (nf_diagnose_text(size=0_c_size_t) /= 0) stop 5
    end subroutine

    subroutine expect(status, wanted, words)
        integer(c_int), intent(in) :: status, wanted
        character(len=*), intent(in), optional :: words
        if (status /= wanted) stop 6
        if (.not. present(words)) return
        if (index(nf_message(), words) == 0) stop 7
    end subroutine
end program
