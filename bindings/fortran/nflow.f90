!
! nflow.f90 - the interface of libnflow for Fortran 2018 (ISO_C_BINDING)
!
! Every function, struct, enum and callback of nflow.h under its own name; what they mean is said there. What is different:
!
! Arrays.    C's rows x dim in row-major order is x(dim, rows) here: a sample is a column, nothing is copied.
! NULL.      Arrays and structs that may be NULL are optional arguments: leave them out (then name the arguments behind them).
! Handles.   type(c_ptr). c_null_ptr as a workspace: the call makes one for itself.
! Structs.   Members have their zeros from the start; nf_init(config) sets struct_size. Reports and stats want it too.
! Callbacks. c_funloc of a bind(C) function with one of the abstract interfaces below.
! Strings.   Paths end in c_null_char: nf_path(name). nf_text gives Fortran's text of C's, nf_message that of the last failure.
! Numbers.   Sizes are integer(c_size_t), seeds integer(c_int64_t), enums and statuses integer(c_int).
!
! An array that is both input and output of a call is allowed in C; Fortran's rules on aliasing want two arrays.
! MIT licence.
!
module nflow
    use, intrinsic :: iso_c_binding
    implicit none
    public

    integer(c_size_t), parameter :: NF_NONE = -1_c_size_t ! none, for sizes whose zero means the default

    ! nf_status
    enum, bind(C)
        enumerator :: NF_OK = 0, NF_STOPPED = 1, NF_ERR_ARGUMENT = -1, NF_ERR_MEMORY = -2, NF_ERR_ROWS = -3, &
            NF_ERR_MISMATCH = -4, NF_ERR_UNSUPPORTED = -5, NF_ERR_IO = -6, NF_ERR_FORMAT = -7, NF_ERR_DIVERGED = -8
    end enum
    ! nf_precision
    enum, bind(C)
        enumerator :: NF_DOUBLE = 0, NF_SINGLE = 1
    end enum
    ! nf_activation
    enum, bind(C)
        enumerator :: NF_ACTIVATION_DEFAULT = 0, NF_GELU = 1, NF_TANH = 2, NF_RELU = 3, NF_SILU = 4, NF_SOFTPLUS = 5
    end enum
    ! nf_scale
    enum, bind(C)
        enumerator :: NF_SCALE_TANH = 0, NF_SCALE_EXP = 1, NF_SCALE_SIGMOID = 2, NF_SCALE_SOFTCLIP = 3, &
            NF_SCALE_INVERSE_SIGMOID = 4
    end enum
    ! nf_mask
    enum, bind(C)
        enumerator :: NF_MASK_HALVES = 0, NF_MASK_CHECKERBOARD = 1, NF_MASK_RANDOM = 2
    end enum
    ! nf_dynamics
    enum, bind(C)
        enumerator :: NF_DYNAMICS_MLP = 0, NF_DYNAMICS_HYPER = 1
    end enum
    ! nf_ode_method
    enum, bind(C)
        enumerator :: NF_DOPRI5 = 0, NF_TSIT5 = 1, NF_DOP853 = 2, NF_BOSH3 = 3, NF_RK4 = 4, NF_MIDPOINT = 5, NF_EULER = 6
    end enum
    ! nf_trace
    enum, bind(C)
        enumerator :: NF_TRACE_EXACT = 0, NF_TRACE_HUTCHINSON = 1, NF_TRACE_HUTCHINSON_NORMAL = 2
    end enum
    ! nf_ode_gradient
    enum, bind(C)
        enumerator :: NF_ODE_DISCRETE = 0, NF_ODE_ADJOINT = 1
    end enum
    ! nf_optimizer_kind
    enum, bind(C)
        enumerator :: NF_ADAM = 0, NF_ADAMW = 1, NF_SGD = 2, NF_RMSPROP = 3
    end enum
    ! nf_schedule
    enum, bind(C)
        enumerator :: NF_SCHEDULE_COSINE = 0, NF_SCHEDULE_CONSTANT = 1, NF_SCHEDULE_STEP = 2
    end enum
    ! nf_objective
    enum, bind(C)
        enumerator :: NF_OBJECTIVE_LIKELIHOOD = 0, NF_OBJECTIVE_FLOW_MATCHING = 1
    end enum
    ! nf_pairing
    enum, bind(C)
        enumerator :: NF_PAIRING_INDEPENDENT = 0, NF_PAIRING_OPTIMAL = 1
    end enum
    ! nf_stop_reason
    enum, bind(C)
        enumerator :: NF_STOP_EPOCHS = 0, NF_STOP_PATIENCE = 1, NF_STOP_CALLBACK = 2, NF_STOP_DIVERGED = 3
    end enum
    ! nf_verdict
    enum, bind(C)
        enumerator :: NF_PASSED = 0, NF_FAILED = 1, NF_SKIPPED = 2
    end enum

    type, bind(C) :: nf_rng
        integer(c_int64_t) :: seed = 0, stream = 0, position = 0
    end type

    type, bind(C) :: nf_allocator
        type(c_funptr) :: alloc = c_null_funptr, release = c_null_funptr
        type(c_ptr) :: user = c_null_ptr
    end type

    type, bind(C) :: nf_planar_config
        integer(c_size_t) :: struct_size = 0, dim = 0, context_dim = 0, layers = 0
        integer(c_int64_t) :: seed = 0
        integer(c_int) :: precision = 0, activation = 0
        integer(c_size_t) :: hidden_layers = 0, hidden_width = 0
        type(c_ptr) :: allocator = c_null_ptr
    end type

    type, bind(C) :: nf_radial_config
        integer(c_size_t) :: struct_size = 0, dim = 0, context_dim = 0, layers = 0
        integer(c_int64_t) :: seed = 0
        integer(c_int) :: precision = 0, activation = 0
        integer(c_size_t) :: hidden_layers = 0, hidden_width = 0
        type(c_ptr) :: allocator = c_null_ptr
    end type

    type, bind(C) :: nf_realnvp_config
        integer(c_size_t) :: struct_size = 0, dim = 0, context_dim = 0, couplings = 0
        integer(c_int64_t) :: seed = 0
        integer(c_int) :: precision = 0, activation = 0
        integer(c_size_t) :: hidden_layers = 0, hidden_width = 0
        integer(c_int) :: scale = 0, mask = 0
        real(c_double) :: scale_clamp = 0
        integer(c_int) :: actnorm = 0, reserved = 0
        type(c_ptr) :: allocator = c_null_ptr
    end type

    type, bind(C) :: nf_cnf_config
        integer(c_size_t) :: struct_size = 0, dim = 0, context_dim = 0
        integer(c_int64_t) :: seed = 0
        integer(c_int) :: precision = 0, activation = 0, dynamics = 0, method = 0
        integer(c_size_t) :: hidden_layers = 0, hidden_width = 0, units = 0
        real(c_double) :: t0 = 0, t1 = 0, rtol = 0, atol = 0
        integer(c_size_t) :: steps = 0, max_steps = 0
        integer(c_int) :: trace = 0, gradient = 0
        integer(c_size_t) :: probes = 0
        real(c_double) :: kinetic = 0, jacobian = 0
        type(c_ptr) :: allocator = c_null_ptr
        integer(c_int) :: shared_step = 0, reserved = 0
    end type

    type, bind(C) :: nf_tensor
        integer(c_size_t) :: struct_size = 0
        type(c_ptr) :: name = c_null_ptr
        integer(c_size_t) :: rank = 0, shape(2) = 0, offset = 0
    end type

    type, bind(C) :: nf_stats
        integer(c_size_t) :: struct_size = 0, bad_rows = 0, first_bad_row = 0
        integer(c_int64_t) :: rhs_evaluations = 0, steps_accepted = 0, steps_rejected = 0, root_iterations = 0
    end type

    type, bind(C) :: nf_optimizer_config
        integer(c_size_t) :: struct_size = 0
        integer(c_int) :: kind = 0, reserved = 0
        real(c_double) :: learning_rate = 0, beta1 = 0, beta2 = 0, epsilon = 0, weight_decay = 0, momentum = 0, &
            clip_norm = 0
        type(c_ptr) :: allocator = c_null_ptr
    end type

    type, bind(C) :: nf_fit_progress
        integer(c_size_t) :: struct_size = 0, epoch = 0, epochs = 0, steps = 0
        real(c_double) :: train_loss = 0, validation_loss = 0, best_loss = 0, learning_rate = 0, gradient_norm = 0, &
            seconds = 0, seconds_left = 0, rhs_evaluations = 0
    end type

    type, bind(C) :: nf_comm
        integer(c_size_t) :: struct_size = 0
        integer(c_int) :: rank = 0, size = 0
        type(c_ptr) :: user = c_null_ptr
        type(c_funptr) :: allgather = c_null_funptr, broadcast = c_null_funptr, barrier = c_null_funptr, &
            exchange = c_null_funptr, allreduce = c_null_funptr
        integer(c_size_t) :: shards = 0
        integer(c_int) :: fast = 0, reserved = 0
    end type

    type, bind(C) :: nf_fit_config
        integer(c_size_t) :: struct_size = 0, epochs = 0, batch_size = 0, patience = 0, threads = 0
        integer(c_int64_t) :: seed = 0
        type(c_ptr) :: optimizer = c_null_ptr
        integer(c_int) :: schedule = 0, objective = 0
        integer(c_size_t) :: schedule_step = 0
        real(c_double) :: schedule_factor = 0, validation_fraction = 0
        integer(c_size_t) :: validation_rows = 0
        type(c_ptr) :: validation_x = c_null_ptr, validation_context = c_null_ptr, validation_weight = c_null_ptr, &
            weight = c_null_ptr
        real(c_double) :: ema_decay = 0, noise = 0, training_tolerance = 0
        integer(c_int) :: standardize = 0, pairing = 0
        type(c_ptr) :: checkpoint = c_null_ptr
        integer(c_size_t) :: checkpoint_every = 0
        type(c_ptr) :: comm = c_null_ptr
        type(c_funptr) :: progress = c_null_funptr
        type(c_ptr) :: progress_user = c_null_ptr, allocator = c_null_ptr
        type(c_funptr) :: read = c_null_funptr
        type(c_ptr) :: read_user = c_null_ptr
        real(c_double) :: contamination = 0
    end type

    type, bind(C) :: nf_fit_report
        integer(c_size_t) :: struct_size = 0, epochs_run = 0, best_epoch = 0, steps = 0
        real(c_double) :: train_loss = 0, validation_loss = 0, best_loss = 0, seconds = 0
        integer(c_int) :: stop_reason = 0, reserved = 0
        integer(c_size_t) :: bad_rows = 0
        real(c_double) :: rhs_evaluations = 0
    end type

    type, bind(C) :: nf_reverse_kl_progress
        integer(c_size_t) :: struct_size = 0, step = 0, steps = 0
        real(c_double) :: loss = 0, beta = 0, learning_rate = 0, seconds = 0, seconds_left = 0
    end type

    type, bind(C) :: nf_reverse_kl_config
        integer(c_size_t) :: struct_size = 0, steps = 0, samples = 0, threads = 0
        integer(c_int64_t) :: seed = 0
        type(c_ptr) :: optimizer = c_null_ptr
        integer(c_int) :: schedule = 0, reserved = 0
        integer(c_size_t) :: schedule_step = 0
        real(c_double) :: schedule_factor = 0, beta_start = 0
        integer(c_size_t) :: anneal_steps = 0
        real(c_double) :: ema_decay = 0
        integer(c_size_t) :: evaluation_samples = 0
        type(c_ptr) :: context = c_null_ptr
        integer(c_size_t) :: progress_every = 0
        type(c_funptr) :: progress = c_null_funptr
        type(c_ptr) :: progress_user = c_null_ptr, allocator = c_null_ptr, comm = c_null_ptr
    end type

    type, bind(C) :: nf_reverse_kl_report
        integer(c_size_t) :: struct_size = 0, steps = 0
        real(c_double) :: loss = 0, elbo = 0, elbo_error = 0, log_evidence = 0, effective_sample_size = 0, seconds = 0
        integer(c_size_t) :: bad_rows = 0
        integer(c_int) :: stop_reason = 0, reserved = 0
    end type

    type, bind(C) :: nf_ode_config
        integer(c_size_t) :: struct_size = 0
        integer(c_int) :: method = 0, reserved = 0
        real(c_double) :: rtol = 0, atol = 0
        integer(c_size_t) :: steps = 0, max_steps = 0
        type(c_ptr) :: allocator = c_null_ptr
    end type

    type, bind(C) :: nf_finding
        real(c_double) :: value = 0, threshold = 0
        integer(c_int) :: verdict = 0, reserved = 0
    end type

    type, bind(C) :: nf_diagnose_config
        integer(c_size_t) :: struct_size = 0, rows = 0, exact_rows = 0, samples = 0, permutations = 0, threads = 0
        integer(c_int64_t) :: seed = 0
        real(c_double) :: significance = 0, least_effective_sample_size = 0, most_weight = 0
        type(c_funptr) :: target = c_null_funptr
        type(c_ptr) :: target_user = c_null_ptr, allocator = c_null_ptr
    end type

    type, bind(C) :: nf_diagnose_report
        integer(c_size_t) :: struct_size = 0, failed = 0, skipped = 0
        type(nf_finding) :: round_trip
        real(c_double) :: round_trip_typical = 0, round_trip_condition = 0
        integer(c_size_t) :: round_trip_row = 0
        type(nf_finding) :: log_det_pair, log_det
        integer(c_size_t) :: log_det_row = 0
        type(nf_finding) :: accuracy, gradient, forward_vjp, inverse_vjp, normalization
        real(c_double) :: normalization_error = 0
        type(nf_finding) :: sampler, effective_sample_size, largest_weight, two_sample, calibration
        integer(c_size_t) :: calibration_column = 0
    end type

    type, bind(C) :: nf_mlp_config
        integer(c_size_t) :: struct_size = 0, inputs = 0, outputs = 0
        integer(c_int64_t) :: seed = 0
        integer(c_int) :: precision = 0, activation = 0
        integer(c_size_t) :: hidden_layers = 0, hidden_width = 0
        real(c_double) :: output_scale = 0
        type(c_ptr) :: allocator = c_null_ptr
    end type

    abstract interface
        integer(c_int) function nf_target_fn(user, rows, x, log_density, grad_x) bind(C)
            import
            type(c_ptr), value :: user
            integer(c_size_t), value :: rows
            real(c_double), intent(in) :: x(*)
            real(c_double), intent(inout) :: log_density(*), grad_x(*)
        end function
        integer(c_int) function nf_progress_fn(user, progress) bind(C)
            import
            type(c_ptr), value :: user
            type(nf_fit_progress), intent(in) :: progress
        end function
        integer(c_int) function nf_reverse_kl_progress_fn(user, progress) bind(C)
            import
            type(c_ptr), value :: user
            type(nf_reverse_kl_progress), intent(in) :: progress
        end function
        integer(c_int) function nf_ode_fn(user, count, row, t, y, dydt) bind(C)
            import
            type(c_ptr), value :: user
            integer(c_size_t), value :: count
            integer(c_size_t), intent(in) :: row(*)
            real(c_double), intent(in) :: t(*), y(*)
            real(c_double), intent(inout) :: dydt(*)
        end function
        ! of nf_allocator
        type(c_ptr) function nf_alloc_fn(user, size) bind(C)
            import
            type(c_ptr), value :: user
            integer(c_size_t), value :: size
        end function
        subroutine nf_release_fn(user, pointer) bind(C)
            import
            type(c_ptr), value :: user, pointer
        end subroutine
        ! of nf_comm
        integer(c_int) function nf_allgather_fn(user, send, receive, count) bind(C)
            import
            type(c_ptr), value :: user
            integer(c_size_t), value :: count
            real(c_double), intent(in) :: send(count)
            real(c_double), intent(out) :: receive(*)
        end function
        integer(c_int) function nf_broadcast_fn(user, bytes, size, root) bind(C)
            import
            type(c_ptr), value :: user, bytes
            integer(c_size_t), value :: size
            integer(c_int), value :: root
        end function
        integer(c_int) function nf_barrier_fn(user) bind(C)
            import
            type(c_ptr), value :: user
        end function
        integer(c_int) function nf_exchange_fn(user, send, send_counts, receive, receive_counts) bind(C)
            import
            type(c_ptr), value :: user
            real(c_double), intent(in) :: send(*)
            integer(c_size_t), intent(in) :: send_counts(*), receive_counts(*)
            real(c_double), intent(out) :: receive(*)
        end function
        integer(c_int) function nf_allreduce_fn(user, values, count) bind(C)
            import
            type(c_ptr), value :: user
            integer(c_size_t), value :: count
            real(c_double), intent(inout) :: values(count)
        end function
        ! read of nf_fit_config; `row` counts from 0; context is not present when the flow takes none
        integer(c_int) function nf_rows_fn(user, count, row, x, context) bind(C)
            import
            type(c_ptr), value :: user
            integer(c_size_t), value :: count
            integer(c_size_t), intent(in) :: row(count)
            real(c_double), intent(out) :: x(*)
            real(c_double), intent(out), optional :: context(*)
        end function
    end interface

    interface
        type(c_ptr) function nf_status_name(status) bind(C, name="nf_status_name")
            import
            integer(c_int), value :: status
        end function
        type(c_ptr) function nf_last_error() bind(C, name="nf_last_error")
            import
        end function
        type(c_ptr) function nf_version() bind(C, name="nf_version")
            import
        end function
        subroutine nf_free(pointer) bind(C, name="nf_free")
            import
            type(c_ptr), value :: pointer
        end subroutine
        integer(c_int) function nf_planar_create(config, flow) bind(C, name="nf_planar_create")
            import
            type(nf_planar_config), intent(in) :: config
            type(c_ptr), intent(out) :: flow
        end function
        integer(c_int) function nf_radial_create(config, flow) bind(C, name="nf_radial_create")
            import
            type(nf_radial_config), intent(in) :: config
            type(c_ptr), intent(out) :: flow
        end function
        integer(c_int) function nf_realnvp_create(config, flow) bind(C, name="nf_realnvp_create")
            import
            type(nf_realnvp_config), intent(in) :: config
            type(c_ptr), intent(out) :: flow
        end function
        integer(c_int) function nf_cnf_create(config, flow) bind(C, name="nf_cnf_create")
            import
            type(nf_cnf_config), intent(in) :: config
            type(c_ptr), intent(out) :: flow
        end function
        integer(c_int) function nf_permutation_create(dim, source, precision, flow) bind(C, name="nf_permutation_create")
            import
            integer(c_size_t), value :: dim
            integer(c_size_t), intent(in) :: source(*)
            integer(c_int), value :: precision
            type(c_ptr), intent(out) :: flow
        end function
        integer(c_int) function nf_affine_create(dim, precision, flow) bind(C, name="nf_affine_create")
            import
            integer(c_size_t), value :: dim
            integer(c_int), value :: precision
            type(c_ptr), intent(out) :: flow
        end function
        integer(c_int) function nf_affine_standardize(affine, rows, x) bind(C, name="nf_affine_standardize")
            import
            type(c_ptr), value :: affine
            integer(c_size_t), value :: rows
            real(c_double), intent(in) :: x(*)
        end function
        integer(c_int) function nf_flow_create(dim, context_dim, precision, flow) bind(C, name="nf_flow_create")
            import
            integer(c_size_t), value :: dim, context_dim
            integer(c_int), value :: precision
            type(c_ptr), intent(out) :: flow
        end function
        integer(c_int) function nf_flow_create_with(dim, context_dim, precision, flow, &
            allocator) bind(C, name="nf_flow_create_with")
            import
            integer(c_size_t), value :: dim, context_dim
            integer(c_int), value :: precision
            type(c_ptr), intent(out) :: flow
            type(nf_allocator), intent(in), optional :: allocator
        end function
        integer(c_int) function nf_flow_append(flow, part) bind(C, name="nf_flow_append")
            import
            type(c_ptr), value :: flow, part
        end function
        integer(c_int) function nf_flow_invert(flow) bind(C, name="nf_flow_invert")
            import
            type(c_ptr), value :: flow
        end function
        integer(c_int) function nf_flow_set_base_normal(flow, mean, sd) bind(C, name="nf_flow_set_base_normal")
            import
            type(c_ptr), value :: flow
            real(c_double), intent(in), optional :: mean(*), sd(*)
        end function
        integer(c_int) function nf_flow_clone(flow, copy) bind(C, name="nf_flow_clone")
            import
            type(c_ptr), value :: flow
            type(c_ptr), intent(out) :: copy
        end function
        integer(c_int) function nf_flow_convert(flow, precision, copy) bind(C, name="nf_flow_convert")
            import
            type(c_ptr), value :: flow
            integer(c_int), value :: precision
            type(c_ptr), intent(out) :: copy
        end function
        subroutine nf_flow_free(flow) bind(C, name="nf_flow_free")
            import
            type(c_ptr), value :: flow
        end subroutine
        integer(c_size_t) function nf_flow_dim(flow) bind(C, name="nf_flow_dim")
            import
            type(c_ptr), value :: flow
        end function
        integer(c_size_t) function nf_flow_context_dim(flow) bind(C, name="nf_flow_context_dim")
            import
            type(c_ptr), value :: flow
        end function
        integer(c_size_t) function nf_flow_layer_count(flow) bind(C, name="nf_flow_layer_count")
            import
            type(c_ptr), value :: flow
        end function
        integer(c_int) function nf_flow_precision(flow) bind(C, name="nf_flow_precision")
            import
            type(c_ptr), value :: flow
        end function
        type(c_ptr) function nf_flow_isa(flow) bind(C, name="nf_flow_isa")
            import
            type(c_ptr), value :: flow
        end function
        integer(c_int) function nf_cnf_set_solver(flow, method, rtol, atol, steps, &
            max_steps) bind(C, name="nf_cnf_set_solver")
            import
            type(c_ptr), value :: flow
            integer(c_int), value :: method
            real(c_double), value :: rtol, atol
            integer(c_size_t), value :: steps, max_steps
        end function
        integer(c_size_t) function nf_parameter_count(flow) bind(C, name="nf_parameter_count")
            import
            type(c_ptr), value :: flow
        end function
        integer(c_int) function nf_get_parameters(flow, out) bind(C, name="nf_get_parameters")
            import
            type(c_ptr), value :: flow
            real(c_double), intent(inout) :: out(*)
        end function
        integer(c_int) function nf_set_parameters(flow, in) bind(C, name="nf_set_parameters")
            import
            type(c_ptr), value :: flow
            real(c_double), intent(in) :: in(*)
        end function
        integer(c_size_t) function nf_tensor_count(flow) bind(C, name="nf_tensor_count")
            import
            type(c_ptr), value :: flow
        end function
        integer(c_int) function nf_tensor_info(flow, index, info) bind(C, name="nf_tensor_info")
            import
            type(c_ptr), value :: flow
            integer(c_size_t), value :: index
            type(nf_tensor), intent(inout) :: info
        end function
        integer(c_int) function nf_workspace_create(flow, threads, workspace) bind(C, name="nf_workspace_create")
            import
            type(c_ptr), value :: flow
            integer(c_size_t), value :: threads
            type(c_ptr), intent(out) :: workspace
        end function
        subroutine nf_workspace_free(workspace) bind(C, name="nf_workspace_free")
            import
            type(c_ptr), value :: workspace
        end subroutine
        integer(c_int) function nf_workspace_stats(workspace, stats) bind(C, name="nf_workspace_stats")
            import
            type(c_ptr), value :: workspace
            type(nf_stats), intent(inout) :: stats
        end function
        integer(c_int) function nf_forward(flow, ws, rows, z, context, x, log_det) bind(C, name="nf_forward")
            import
            type(c_ptr), value :: flow, ws
            integer(c_size_t), value :: rows
            real(c_double), intent(in) :: z(*)
            real(c_double), intent(in), optional :: context(*)
            real(c_double), intent(inout), optional :: x(*), log_det(*)
        end function
        integer(c_int) function nf_inverse(flow, ws, rows, x, context, z, log_det) bind(C, name="nf_inverse")
            import
            type(c_ptr), value :: flow, ws
            integer(c_size_t), value :: rows
            real(c_double), intent(in) :: x(*)
            real(c_double), intent(in), optional :: context(*)
            real(c_double), intent(inout), optional :: z(*), log_det(*)
        end function
        integer(c_int) function nf_log_prob(flow, ws, rows, x, context, log_prob) bind(C, name="nf_log_prob")
            import
            type(c_ptr), value :: flow, ws
            integer(c_size_t), value :: rows
            real(c_double), intent(in) :: x(*)
            real(c_double), intent(in), optional :: context(*)
            real(c_double), intent(inout), optional :: log_prob(*)
        end function
        integer(c_int) function nf_sample(flow, ws, rng, rows, context, x, log_prob) bind(C, name="nf_sample")
            import
            type(c_ptr), value :: flow, ws
            type(nf_rng), intent(inout) :: rng
            integer(c_size_t), value :: rows
            real(c_double), intent(in), optional :: context(*)
            real(c_double), intent(inout), optional :: x(*), log_prob(*)
        end function
        integer(c_int) function nf_score(flow, ws, rows, x, context, log_prob, score) bind(C, name="nf_score")
            import
            type(c_ptr), value :: flow, ws
            integer(c_size_t), value :: rows
            real(c_double), intent(in) :: x(*)
            real(c_double), intent(in), optional :: context(*)
            real(c_double), intent(inout), optional :: log_prob(*), score(*)
        end function
        integer(c_int) function nf_cnf_trajectory(cnf, ws, rows, z, context, times, t, &
            path) bind(C, name="nf_cnf_trajectory")
            import
            type(c_ptr), value :: cnf, ws
            integer(c_size_t), value :: rows
            real(c_double), intent(in) :: z(*)
            real(c_double), intent(in), optional :: context(*)
            integer(c_size_t), value :: times
            real(c_double), intent(in) :: t(*)
            real(c_double), intent(inout) :: path(*)
        end function
        integer(c_int) function nf_gradient_create(flow, gradient) bind(C, name="nf_gradient_create")
            import
            type(c_ptr), value :: flow
            type(c_ptr), intent(out) :: gradient
        end function
        subroutine nf_gradient_free(gradient) bind(C, name="nf_gradient_free")
            import
            type(c_ptr), value :: gradient
        end subroutine
        integer(c_int) function nf_gradient_zero(gradient) bind(C, name="nf_gradient_zero")
            import
            type(c_ptr), value :: gradient
        end function
        integer(c_int) function nf_gradient_get(gradient, out) bind(C, name="nf_gradient_get")
            import
            type(c_ptr), value :: gradient
            real(c_double), intent(inout) :: out(*)
        end function
        integer(c_int) function nf_gradient_set(gradient, in) bind(C, name="nf_gradient_set")
            import
            type(c_ptr), value :: gradient
            real(c_double), intent(in) :: in(*)
        end function
        integer(c_int) function nf_grad_nll(flow, ws, rows, x, context, weight, gradient, loss) bind(C, name="nf_grad_nll")
            import
            type(c_ptr), value :: flow, ws
            integer(c_size_t), value :: rows
            real(c_double), intent(in) :: x(*)
            real(c_double), intent(in), optional :: context(*), weight(*)
            type(c_ptr), value :: gradient
            real(c_double), intent(inout), optional :: loss
        end function
        integer(c_int) function nf_grad_reverse_kl(flow, ws, rng, rows, context, target, user, gradient, &
            loss) bind(C, name="nf_grad_reverse_kl")
            import
            type(c_ptr), value :: flow, ws
            type(nf_rng), intent(inout) :: rng
            integer(c_size_t), value :: rows
            real(c_double), intent(in), optional :: context(*)
            type(c_funptr), value :: target
            type(c_ptr), value :: user, gradient
            real(c_double), intent(inout), optional :: loss
        end function
        integer(c_int) function nf_grad_flow_matching(flow, ws, rng, rows, x, context, weight, pairing, gradient, &
            loss) bind(C, name="nf_grad_flow_matching")
            import
            type(c_ptr), value :: flow, ws
            type(nf_rng), intent(inout) :: rng
            integer(c_size_t), value :: rows
            real(c_double), intent(in) :: x(*)
            real(c_double), intent(in), optional :: context(*), weight(*)
            integer(c_int), value :: pairing
            type(c_ptr), value :: gradient
            real(c_double), intent(inout), optional :: loss
        end function
        integer(c_int) function nf_forward_vjp(flow, ws, rows, z, context, grad_x, grad_log_det, grad_z, grad_context, &
            gradient) bind(C, name="nf_forward_vjp")
            import
            type(c_ptr), value :: flow, ws
            integer(c_size_t), value :: rows
            real(c_double), intent(in) :: z(*)
            real(c_double), intent(in), optional :: context(*), grad_x(*), grad_log_det(*)
            real(c_double), intent(inout), optional :: grad_z(*), grad_context(*)
            type(c_ptr), value :: gradient
        end function
        integer(c_int) function nf_inverse_vjp(flow, ws, rows, x, context, grad_z, grad_log_det, grad_x, grad_context, &
            gradient) bind(C, name="nf_inverse_vjp")
            import
            type(c_ptr), value :: flow, ws
            integer(c_size_t), value :: rows
            real(c_double), intent(in) :: x(*)
            real(c_double), intent(in), optional :: context(*), grad_z(*), grad_log_det(*)
            real(c_double), intent(inout), optional :: grad_x(*), grad_context(*)
            type(c_ptr), value :: gradient
        end function
        integer(c_int) function nf_optimizer_create(flow, config, optimizer) bind(C, name="nf_optimizer_create")
            import
            type(c_ptr), value :: flow
            type(nf_optimizer_config), intent(in), optional :: config
            type(c_ptr), intent(out) :: optimizer
        end function
        subroutine nf_optimizer_free(optimizer) bind(C, name="nf_optimizer_free")
            import
            type(c_ptr), value :: optimizer
        end subroutine
        integer(c_int) function nf_optimizer_step(optimizer, flow, gradient) bind(C, name="nf_optimizer_step")
            import
            type(c_ptr), value :: optimizer, flow, gradient
        end function
        integer(c_int) function nf_optimizer_set_learning_rate(optimizer, &
            learning_rate) bind(C, name="nf_optimizer_set_learning_rate")
            import
            type(c_ptr), value :: optimizer
            real(c_double), value :: learning_rate
        end function
        integer(c_int) function nf_fit(flow, rows, x, context, config, report) bind(C, name="nf_fit")
            import
            type(c_ptr), value :: flow
            integer(c_size_t), value :: rows
            real(c_double), intent(in), optional :: x(*), context(*)
            type(nf_fit_config), intent(in), optional :: config
            type(nf_fit_report), intent(inout), optional :: report
        end function
        integer(c_int) function nf_fit_reverse_kl(flow, target, user, config, report) bind(C, name="nf_fit_reverse_kl")
            import
            type(c_ptr), value :: flow
            type(c_funptr), value :: target
            type(c_ptr), value :: user
            type(nf_reverse_kl_config), intent(in), optional :: config
            type(nf_reverse_kl_report), intent(inout), optional :: report
        end function
        integer(c_int) function nf_ode_solve(config, rows, size, f, user, t0, t1, y, times, t, path, &
            stats) bind(C, name="nf_ode_solve")
            import
            type(nf_ode_config), intent(in), optional :: config
            integer(c_size_t), value :: rows, size
            type(c_funptr), value :: f
            type(c_ptr), value :: user
            real(c_double), value :: t0, t1
            real(c_double), intent(inout) :: y(*)
            integer(c_size_t), value :: times
            real(c_double), intent(in), optional :: t(*)
            real(c_double), intent(inout), optional :: path(*)
            type(nf_stats), intent(inout), optional :: stats
        end function
        integer(c_int) function nf_diagnose(flow, rows, x, context, config, report) bind(C, name="nf_diagnose")
            import
            type(c_ptr), value :: flow
            integer(c_size_t), value :: rows
            real(c_double), intent(in), optional :: x(*), context(*)
            type(nf_diagnose_config), intent(in), optional :: config
            type(nf_diagnose_report), intent(inout) :: report
        end function
        integer(c_size_t) function nf_diagnose_text(report, text, size) bind(C, name="nf_diagnose_text")
            import
            type(nf_diagnose_report), intent(in), optional :: report
            character(kind=c_char), intent(inout), optional :: text(*)
            integer(c_size_t), value :: size
        end function
        integer(c_int) function nf_mlp_create(config, mlp) bind(C, name="nf_mlp_create")
            import
            type(nf_mlp_config), intent(in) :: config
            type(c_ptr), intent(out) :: mlp
        end function
        subroutine nf_mlp_free(mlp) bind(C, name="nf_mlp_free")
            import
            type(c_ptr), value :: mlp
        end subroutine
        integer(c_size_t) function nf_mlp_parameter_count(mlp) bind(C, name="nf_mlp_parameter_count")
            import
            type(c_ptr), value :: mlp
        end function
        integer(c_int) function nf_mlp_get_parameters(mlp, out) bind(C, name="nf_mlp_get_parameters")
            import
            type(c_ptr), value :: mlp
            real(c_double), intent(inout) :: out(*)
        end function
        integer(c_int) function nf_mlp_set_parameters(mlp, in) bind(C, name="nf_mlp_set_parameters")
            import
            type(c_ptr), value :: mlp
            real(c_double), intent(in) :: in(*)
        end function
        integer(c_int) function nf_mlp_workspace_create(mlp, workspace) bind(C, name="nf_mlp_workspace_create")
            import
            type(c_ptr), value :: mlp
            type(c_ptr), intent(out) :: workspace
        end function
        integer(c_int) function nf_mlp_gradient_create(mlp, gradient) bind(C, name="nf_mlp_gradient_create")
            import
            type(c_ptr), value :: mlp
            type(c_ptr), intent(out) :: gradient
        end function
        integer(c_int) function nf_mlp_optimizer_create(mlp, config, optimizer) bind(C, name="nf_mlp_optimizer_create")
            import
            type(c_ptr), value :: mlp
            type(nf_optimizer_config), intent(in), optional :: config
            type(c_ptr), intent(out) :: optimizer
        end function
        integer(c_int) function nf_mlp_forward(mlp, ws, rows, x, y) bind(C, name="nf_mlp_forward")
            import
            type(c_ptr), value :: mlp, ws
            integer(c_size_t), value :: rows
            real(c_double), intent(in) :: x(*)
            real(c_double), intent(inout) :: y(*)
        end function
        integer(c_int) function nf_mlp_vjp(mlp, ws, rows, x, grad_y, y, grad_x, gradient) bind(C, name="nf_mlp_vjp")
            import
            type(c_ptr), value :: mlp, ws
            integer(c_size_t), value :: rows
            real(c_double), intent(in) :: x(*), grad_y(*)
            real(c_double), intent(inout), optional :: y(*), grad_x(*)
            type(c_ptr), value :: gradient
        end function
        integer(c_int) function nf_mlp_step(optimizer, mlp, gradient) bind(C, name="nf_mlp_step")
            import
            type(c_ptr), value :: optimizer, mlp, gradient
        end function
        integer(c_int) function nf_flow_save(flow, path) bind(C, name="nf_flow_save")
            import
            type(c_ptr), value :: flow
            character(kind=c_char), intent(in) :: path(*)
        end function
        integer(c_int) function nf_flow_load(path, flow) bind(C, name="nf_flow_load")
            import
            character(kind=c_char), intent(in) :: path(*)
            type(c_ptr), intent(out) :: flow
        end function
        integer(c_int) function nf_flow_load_with(path, flow, allocator) bind(C, name="nf_flow_load_with")
            import
            character(kind=c_char), intent(in) :: path(*)
            type(c_ptr), intent(out) :: flow
            type(nf_allocator), intent(in), optional :: allocator
        end function
        integer(c_int) function nf_flow_save_memory(flow, bytes, size) bind(C, name="nf_flow_save_memory")
            import
            type(c_ptr), value :: flow
            type(c_ptr), intent(out) :: bytes
            integer(c_size_t), intent(out) :: size
        end function
        integer(c_int) function nf_flow_load_memory(bytes, size, flow) bind(C, name="nf_flow_load_memory")
            import
            type(c_ptr), value :: bytes
            integer(c_size_t), value :: size
            type(c_ptr), intent(out) :: flow
        end function
        integer(c_int) function nf_flow_load_memory_with(bytes, size, flow, &
            allocator) bind(C, name="nf_flow_load_memory_with")
            import
            type(c_ptr), value :: bytes
            integer(c_size_t), value :: size
            type(c_ptr), intent(out) :: flow
            type(nf_allocator), intent(in), optional :: allocator
        end function
    end interface

    ! Sets struct_size.
    interface nf_init
        module procedure init_planar_config, init_radial_config, init_realnvp_config, init_cnf_config, init_tensor, &
            init_stats, init_optimizer_config, init_fit_progress, init_comm, init_fit_config, &
            init_fit_report, init_reverse_kl_progress, init_reverse_kl_config, init_reverse_kl_report, &
            init_ode_config, init_diagnose_config, init_diagnose_report, init_mlp_config
    end interface
    private :: init_planar_config, init_radial_config, init_realnvp_config, init_cnf_config, init_tensor, &
        init_stats, init_optimizer_config, init_fit_progress, init_comm, init_fit_config, &
        init_fit_report, init_reverse_kl_progress, init_reverse_kl_config, init_reverse_kl_report, &
        init_ode_config, init_diagnose_config, init_diagnose_report, init_mlp_config

    interface
        pure integer(c_size_t) function nf_text_length(text) bind(C, name="strlen")
            import
            type(c_ptr), value :: text
        end function
    end interface

contains

    ! Fortran's text of a C string; empty for NULL.
    function nf_text(pointer) result(text)
        type(c_ptr), intent(in) :: pointer
        character(kind=c_char, len=:), allocatable :: text
        character(kind=c_char), pointer :: characters(:)
        integer :: i
        if (.not. c_associated(pointer)) then
            text = ""
            return
        end if
        call c_f_pointer(pointer, characters, [nf_text_length(pointer)])
        allocate (character(kind=c_char, len=size(characters)) :: text)
        do i = 1, size(characters)
            text(i:i) = characters(i)
        end do
    end function

    ! What went wrong last in this thread.
    function nf_message() result(text)
        character(kind=c_char, len=:), allocatable :: text
        text = nf_text(nf_last_error())
    end function

    ! A name without its trailing blanks, as C wants it. C would take what stands before a null character for another
    ! file: a name with more behind one than nulls and blanks gives an empty path, which every call refuses.
    pure function nf_path(name) result(path)
        character(len=*), intent(in) :: name
        character(kind=c_char, len=:), allocatable :: path
        path = trim(name)//c_null_char
        if (verify(name(index(path, c_null_char):), c_null_char//" ") > 0) path = c_null_char
    end function

    pure subroutine init_planar_config(it)
        type(nf_planar_config), intent(inout) :: it
        it%struct_size = c_sizeof(it)
    end subroutine

    pure subroutine init_radial_config(it)
        type(nf_radial_config), intent(inout) :: it
        it%struct_size = c_sizeof(it)
    end subroutine

    pure subroutine init_realnvp_config(it)
        type(nf_realnvp_config), intent(inout) :: it
        it%struct_size = c_sizeof(it)
    end subroutine

    pure subroutine init_cnf_config(it)
        type(nf_cnf_config), intent(inout) :: it
        it%struct_size = c_sizeof(it)
    end subroutine

    pure subroutine init_tensor(it)
        type(nf_tensor), intent(inout) :: it
        it%struct_size = c_sizeof(it)
    end subroutine

    pure subroutine init_stats(it)
        type(nf_stats), intent(inout) :: it
        it%struct_size = c_sizeof(it)
    end subroutine

    pure subroutine init_optimizer_config(it)
        type(nf_optimizer_config), intent(inout) :: it
        it%struct_size = c_sizeof(it)
    end subroutine

    pure subroutine init_fit_progress(it)
        type(nf_fit_progress), intent(inout) :: it
        it%struct_size = c_sizeof(it)
    end subroutine

    pure subroutine init_comm(it)
        type(nf_comm), intent(inout) :: it
        it%struct_size = c_sizeof(it)
    end subroutine

    pure subroutine init_fit_config(it)
        type(nf_fit_config), intent(inout) :: it
        it%struct_size = c_sizeof(it)
    end subroutine

    pure subroutine init_fit_report(it)
        type(nf_fit_report), intent(inout) :: it
        it%struct_size = c_sizeof(it)
    end subroutine

    pure subroutine init_reverse_kl_progress(it)
        type(nf_reverse_kl_progress), intent(inout) :: it
        it%struct_size = c_sizeof(it)
    end subroutine

    pure subroutine init_reverse_kl_config(it)
        type(nf_reverse_kl_config), intent(inout) :: it
        it%struct_size = c_sizeof(it)
    end subroutine

    pure subroutine init_reverse_kl_report(it)
        type(nf_reverse_kl_report), intent(inout) :: it
        it%struct_size = c_sizeof(it)
    end subroutine

    pure subroutine init_ode_config(it)
        type(nf_ode_config), intent(inout) :: it
        it%struct_size = c_sizeof(it)
    end subroutine

    pure subroutine init_diagnose_config(it)
        type(nf_diagnose_config), intent(inout) :: it
        it%struct_size = c_sizeof(it)
    end subroutine

    pure subroutine init_diagnose_report(it)
        type(nf_diagnose_report), intent(inout) :: it
        it%struct_size = c_sizeof(it)
    end subroutine

    pure subroutine init_mlp_config(it)
        type(nf_mlp_config), intent(inout) :: it
        it%struct_size = c_sizeof(it)
    end subroutine
end module
