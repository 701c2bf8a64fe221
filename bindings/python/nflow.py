"""libnflow for Python: normalizing flows with numpy arrays, through ctypes.

    import nflow
    with nflow.Flow.realnvp(dim=2, seed=1) as flow:
        report = flow.fit(x, epochs=50, progress=lambda p: print(p.epoch, p.validation_loss))
        samples, log_prob = flow.sample(1000, nflow.Rng(seed=1))
        flow.save("model.safetensors")

What a call means is said in nflow.h; names are the same. Arrays are rows x dim; contiguous arrays of float64 are used where they lie, other real numbers
are copied. Members of configs are keyword arguments: an enum may be given by its name ("tanh"), and None as couplings, layers,
hidden_layers, patience or evaluation_samples means none (NF_NONE). Failures are exceptions with the line of nf_last_error. Rows that are bad do not spoil
others: RowsError.result is what the call would have returned, with NaN in those rows. A Python callback that raises ends the call, which raises the same; so does Ctrl-C, at the next callback, of which fit has one an epoch.

Handles are freed by close(), at the end of a with block, or with the object; a Flow can be copied and pickled. The interpreter's lock is free during
calls; a handle belongs to one thread at a time, but for flows that are only read. While a call has an object, its callbacks may read a flow or net, and no
more: to close or change it, or to use a workspace, gradient or optimizer again, is a RuntimeError, from other threads too. So is it to read the parameters
of a flow or net that another thread is fitting or changing, or to evaluate, save or copy it; to ask for its dim and the like is not. The library is found
by the environment variable NFLOW_LIBRARY, or as the system finds libraries.

Python 3.7 or later, numpy. MIT licence.
"""
import ctypes
import ctypes.util
import enum
import operator
import os
import signal
import threading
import warnings
from ctypes import POINTER, byref, c_char_p
from ctypes import c_double as D, c_int as I, c_size_t as Z, c_uint64 as U, c_void_p as P

import numpy as np

__all__ = ["Flow", "Workspace", "Gradient", "Optimizer", "Mlp", "Rng", "ode_solve", "diagnosis_text", "version", "Error", "ArgumentError",
           "OutOfMemoryError", "RowsError", "MismatchError", "UnsupportedError", "FileError", "FormatError", "DivergedError", "RowsWarning"]

NONE = Z(-1).value  # NF_NONE

# ---- enums of nflow.h

Status = enum.IntEnum("Status", [("OK", 0), ("STOPPED", 1), ("ERR_ARGUMENT", -1), ("ERR_MEMORY", -2), ("ERR_ROWS", -3), ("ERR_MISMATCH", -4),
                                 ("ERR_UNSUPPORTED", -5), ("ERR_IO", -6), ("ERR_FORMAT", -7), ("ERR_DIVERGED", -8)])
Precision = enum.IntEnum("Precision", "DOUBLE SINGLE", start=0)
Activation = enum.IntEnum("Activation", "DEFAULT GELU TANH RELU SILU SOFTPLUS", start=0)
Scale = enum.IntEnum("Scale", "TANH EXP SIGMOID SOFTCLIP INVERSE_SIGMOID", start=0)
Mask = enum.IntEnum("Mask", "HALVES CHECKERBOARD RANDOM", start=0)
Dynamics = enum.IntEnum("Dynamics", "MLP HYPER", start=0)
OdeMethod = enum.IntEnum("OdeMethod", "DOPRI5 TSIT5 DOP853 BOSH3 RK4 MIDPOINT EULER", start=0)
Trace = enum.IntEnum("Trace", "EXACT HUTCHINSON HUTCHINSON_NORMAL", start=0)
OdeGradient = enum.IntEnum("OdeGradient", "DISCRETE ADJOINT", start=0)
OptimizerKind = enum.IntEnum("OptimizerKind", "ADAM ADAMW SGD RMSPROP", start=0)
Schedule = enum.IntEnum("Schedule", "COSINE CONSTANT STEP", start=0)
Objective = enum.IntEnum("Objective", "LIKELIHOOD FLOW_MATCHING", start=0)
Pairing = enum.IntEnum("Pairing", "INDEPENDENT OPTIMAL", start=0)
StopReason = enum.IntEnum("StopReason", "EPOCHS PATIENCE CALLBACK DIVERGED", start=0)
Verdict = enum.IntEnum("Verdict", "PASSED FAILED SKIPPED", start=0)

_ENUMS = {"precision": Precision, "activation": Activation, "scale": Scale, "mask": Mask, "dynamics": Dynamics, "method": OdeMethod,
          "trace": Trace, "gradient": OdeGradient, "kind": OptimizerKind, "schedule": Schedule, "objective": Objective, "pairing": Pairing}
_NONE_MEANS = {"layers", "couplings", "hidden_layers", "patience", "evaluation_samples"}  # none of them, where 0 is the default


# ---- structs of nflow.h; pointers are P, whatever they point to

class _Struct(ctypes.Structure):
    def asdict(self):
        return {name: getattr(self, name) for name, _ in self._fields_ if name not in ("struct_size", "reserved")}

    def __repr__(self):
        return "%s(%s)" % (type(self).__name__, ", ".join("%s=%r" % item for item in self.asdict().items()))


def _members(*groups):
    """("dim layers", Z), ... as ctypes wants it."""
    return [(name, kind) for names, kind in groups for name in names.split()]


class Rng(_Struct):
    """A counter-based generator, a plain value; calls advance its position by the rows that they draw."""
    _fields_ = _members(("seed stream position", U))

    def __setattr__(self, name, value):  # also what the constructor is given
        if name not in ("seed", "stream", "position"):
            raise TypeError("Rng has no member %r" % name)
        super().__setattr__(name, _whole(value, name, U))


class Allocator(_Struct):
    """Memory for what is made with it, and from that. Callbacks of ctypes, Allocator(ctypes.cast(alloc, ctypes.c_void_p), ..), live as long as all of these;
    whoever gives their addresses as numbers keeps them."""
    _fields_ = _members(("alloc release user", P))


class PlanarConfig(_Struct):
    _fields_ = _members(("struct_size dim context_dim layers", Z), ("seed", U), ("precision activation", I), ("hidden_layers hidden_width", Z),
                        ("allocator", P))


class RadialConfig(_Struct):
    _fields_ = PlanarConfig._fields_


class RealnvpConfig(_Struct):
    _fields_ = _members(("struct_size dim context_dim couplings", Z), ("seed", U), ("precision activation", I), ("hidden_layers hidden_width", Z),
                        ("scale mask", I), ("scale_clamp", D), ("actnorm reserved", I), ("allocator", P))


class CnfConfig(_Struct):
    _fields_ = _members(("struct_size dim context_dim", Z), ("seed", U), ("precision activation dynamics method", I),
                        ("hidden_layers hidden_width units", Z), ("t0 t1 rtol atol", D), ("steps max_steps", Z), ("trace gradient", I), ("probes", Z),
                        ("kinetic jacobian", D), ("allocator", P), ("shared_step reserved", I))


class Tensor(_Struct):
    _fields_ = _members(("struct_size", Z), ("name", P), ("rank", Z), ("shape", Z * 2), ("offset", Z))


class Stats(_Struct):
    _fields_ = _members(("struct_size bad_rows first_bad_row", Z), ("rhs_evaluations steps_accepted steps_rejected root_iterations", U))


class OptimizerConfig(_Struct):
    _fields_ = _members(("struct_size", Z), ("kind reserved", I), ("learning_rate beta1 beta2 epsilon weight_decay momentum clip_norm", D),
                        ("allocator", P))


class FitProgress(_Struct):
    _fields_ = _members(("struct_size epoch epochs steps", Z),
                        ("train_loss validation_loss best_loss learning_rate gradient_norm seconds seconds_left rhs_evaluations", D))


class Comm(_Struct):
    _fields_ = _members(("struct_size", Z), ("rank size", I), ("user allgather broadcast barrier exchange allreduce", P), ("shards", Z),
                        ("fast reserved", I))


class FitConfig(_Struct):
    _fields_ = _members(("struct_size epochs batch_size patience threads", Z), ("seed", U), ("optimizer", P), ("schedule objective", I),
                        ("schedule_step", Z), ("schedule_factor validation_fraction", D), ("validation_rows", Z),
                        ("validation_x validation_context validation_weight weight", P), ("ema_decay noise training_tolerance", D),
                        ("standardize pairing", I), ("checkpoint", P), ("checkpoint_every", Z),
                        ("comm progress progress_user allocator read read_user", P), ("contamination", D))


class FitReport(_Struct):
    _fields_ = _members(("struct_size epochs_run best_epoch steps", Z), ("train_loss validation_loss best_loss seconds", D),
                        ("stop_reason reserved", I), ("bad_rows", Z), ("rhs_evaluations", D))


class ReverseKlProgress(_Struct):
    _fields_ = _members(("struct_size step steps", Z), ("loss beta learning_rate seconds seconds_left", D))


class ReverseKlConfig(_Struct):
    _fields_ = _members(("struct_size steps samples threads", Z), ("seed", U), ("optimizer", P), ("schedule reserved", I), ("schedule_step", Z),
                        ("schedule_factor beta_start", D), ("anneal_steps", Z), ("ema_decay", D), ("evaluation_samples", Z), ("context", P),
                        ("progress_every", Z), ("progress progress_user allocator comm", P))


class ReverseKlReport(_Struct):
    _fields_ = _members(("struct_size steps", Z), ("loss elbo elbo_error log_evidence effective_sample_size seconds", D), ("bad_rows", Z),
                        ("stop_reason reserved", I))


class OdeConfig(_Struct):
    _fields_ = _members(("struct_size", Z), ("method reserved", I), ("rtol atol", D), ("steps max_steps", Z), ("allocator", P))


class Finding(_Struct):
    _fields_ = _members(("value threshold", D), ("verdict reserved", I))


class DiagnoseConfig(_Struct):
    _fields_ = _members(("struct_size rows exact_rows samples permutations threads", Z), ("seed", U),
                        ("significance least_effective_sample_size most_weight", D), ("target target_user allocator", P))


class DiagnoseReport(_Struct):
    _fields_ = _members(("struct_size failed skipped", Z), ("round_trip", Finding), ("round_trip_typical round_trip_condition", D),
                        ("round_trip_row", Z), ("log_det_pair log_det", Finding), ("log_det_row", Z),
                        ("accuracy gradient forward_vjp inverse_vjp normalization", Finding), ("normalization_error", D),
                        ("sampler effective_sample_size largest_weight two_sample calibration", Finding), ("calibration_column", Z))


class MlpConfig(_Struct):
    _fields_ = _members(("struct_size inputs outputs", Z), ("seed", U), ("precision activation", I), ("hidden_layers hidden_width", Z),
                        ("output_scale", D), ("allocator", P))


# ---- functions of nflow.h: arguments; those that do not return a status are named with their result below

SIGNATURES = {
    "nf_status_name": (I,), "nf_last_error": (), "nf_version": (), "nf_free": (P,),
    "nf_planar_create": (P, P), "nf_radial_create": (P, P), "nf_realnvp_create": (P, P), "nf_cnf_create": (P, P),
    "nf_permutation_create": (Z, P, I, P), "nf_affine_create": (Z, I, P), "nf_affine_standardize": (P, Z, P),
    "nf_flow_create": (Z, Z, I, P), "nf_flow_create_with": (Z, Z, I, P, P), "nf_flow_append": (P, P), "nf_flow_invert": (P,),
    "nf_flow_set_base_normal": (P, P, P), "nf_flow_clone": (P, P), "nf_flow_convert": (P, I, P), "nf_flow_free": (P,), "nf_flow_dim": (P,),
    "nf_flow_context_dim": (P,), "nf_flow_layer_count": (P,), "nf_flow_precision": (P,), "nf_flow_isa": (P,),
    "nf_cnf_set_solver": (P, I, D, D, Z, Z),
    "nf_parameter_count": (P,), "nf_get_parameters": (P, P), "nf_set_parameters": (P, P), "nf_tensor_count": (P,), "nf_tensor_info": (P, Z, P),
    "nf_workspace_create": (P, Z, P), "nf_workspace_free": (P,), "nf_workspace_stats": (P, P),
    "nf_forward": (P, P, Z, P, P, P, P), "nf_inverse": (P, P, Z, P, P, P, P), "nf_log_prob": (P, P, Z, P, P, P),
    "nf_sample": (P, P, P, Z, P, P, P), "nf_score": (P, P, Z, P, P, P, P), "nf_cnf_trajectory": (P, P, Z, P, P, Z, P, P),
    "nf_gradient_create": (P, P), "nf_gradient_free": (P,), "nf_gradient_zero": (P,), "nf_gradient_get": (P, P), "nf_gradient_set": (P, P),
    "nf_grad_nll": (P, P, Z, P, P, P, P, P), "nf_grad_reverse_kl": (P, P, P, Z, P, P, P, P, P),
    "nf_grad_flow_matching": (P, P, P, Z, P, P, P, I, P, P),
    "nf_forward_vjp": (P, P, Z, P, P, P, P, P, P, P), "nf_inverse_vjp": (P, P, Z, P, P, P, P, P, P, P),
    "nf_optimizer_create": (P, P, P), "nf_optimizer_free": (P,), "nf_optimizer_step": (P, P, P), "nf_optimizer_set_learning_rate": (P, D),
    "nf_fit": (P, Z, P, P, P, P), "nf_fit_reverse_kl": (P, P, P, P, P), "nf_ode_solve": (P, Z, Z, P, P, D, D, P, Z, P, P, P),
    "nf_diagnose": (P, Z, P, P, P, P), "nf_diagnose_text": (P, P, Z),
    "nf_mlp_create": (P, P), "nf_mlp_free": (P,), "nf_mlp_parameter_count": (P,), "nf_mlp_get_parameters": (P, P),
    "nf_mlp_set_parameters": (P, P), "nf_mlp_workspace_create": (P, P), "nf_mlp_gradient_create": (P, P), "nf_mlp_optimizer_create": (P, P, P),
    "nf_mlp_forward": (P, P, Z, P, P), "nf_mlp_vjp": (P, P, Z, P, P, P, P, P), "nf_mlp_step": (P, P, P),
    "nf_flow_save": (P, P), "nf_flow_load": (P, P), "nf_flow_load_with": (P, P, P), "nf_flow_save_memory": (P, P, P),
    "nf_flow_load_memory": (P, Z, P), "nf_flow_load_memory_with": (P, Z, P, P),
}
RESULTS = {
    "nf_status_name": c_char_p, "nf_last_error": c_char_p, "nf_version": c_char_p, "nf_flow_isa": c_char_p, "nf_flow_precision": I,
    "nf_flow_dim": Z, "nf_flow_context_dim": Z, "nf_flow_layer_count": Z, "nf_parameter_count": Z, "nf_tensor_count": Z, "nf_diagnose_text": Z,
    "nf_mlp_parameter_count": Z, "nf_free": None, "nf_flow_free": None, "nf_workspace_free": None, "nf_gradient_free": None,
    "nf_optimizer_free": None, "nf_mlp_free": None,
}
_PROGRESS = ctypes.CFUNCTYPE(I, P, POINTER(FitProgress))
_REVERSE_KL_PROGRESS = ctypes.CFUNCTYPE(I, P, POINTER(ReverseKlProgress))
_TARGET = ctypes.CFUNCTYPE(I, P, Z, POINTER(D), POINTER(D), POINTER(D))
_ROWS = ctypes.CFUNCTYPE(I, P, Z, POINTER(Z), POINTER(D), POINTER(D))
_ODE = ctypes.CFUNCTYPE(I, P, Z, POINTER(Z), POINTER(D), POINTER(D), POINTER(D))


def _open():
    path = os.environ.get("NFLOW_LIBRARY") or ctypes.util.find_library("nflow") or "libnflow.so.0"
    library = ctypes.CDLL(path)
    for name, arguments in SIGNATURES.items():
        function = getattr(library, name)
        function.argtypes = arguments
        function.restype = RESULTS.get(name, I)
    return library


lib = _open()


# ---- errors

class Error(Exception):
    """A call of libnflow failed: `status`, and the line of nf_last_error."""
    status = Status.ERR_ARGUMENT

    def __init__(self, message, result=None):
        super().__init__(message)
        self.result = result


class ArgumentError(Error, ValueError):
    pass


class OutOfMemoryError(Error, MemoryError):
    status = Status.ERR_MEMORY


class RowsError(Error):
    """Some rows are bad; `result` is what the call would have returned, with NaN in those rows."""
    status = Status.ERR_ROWS


class MismatchError(Error):
    status = Status.ERR_MISMATCH


class UnsupportedError(Error):
    status = Status.ERR_UNSUPPORTED


class FileError(Error, OSError):
    status = Status.ERR_IO


class FormatError(Error):
    status = Status.ERR_FORMAT


class DivergedError(Error):
    """Training met a number that is not finite; the flow has its best parameters. `result` is the report of a fit."""
    status = Status.ERR_DIVERGED


class RowsWarning(UserWarning):
    """A fit left out rows that are not finite, and learned from the others."""


_ERRORS = {kind.status: kind for kind in (ArgumentError, OutOfMemoryError, RowsError, MismatchError, UnsupportedError, FileError, FormatError,
                                          DivergedError)}


def _check(status, result=None):
    if status == Status.OK or status == Status.STOPPED:
        return result
    raise _ERRORS.get(status, Error)(lib.nf_last_error().decode("utf-8", "replace"), result)


def version():
    return lib.nf_version().decode()


# ---- arguments

def _numbers(value, name):
    """`value` as contiguous float64. What is masked is NaN. What is not real numbers is refused: numpy would take "1" or a date for a number."""
    array = np.ma.asanyarray(value) if isinstance(value, np.ma.MaskedArray) else np.asarray(value)
    kinds = {array.dtype.kind}
    if array.dtype == object:
        kinds = {np.asarray(one).dtype.kind for one in np.ma.getdata(array).flat}  # "O": what numpy does not know, such as Decimal and None
    if not kinds <= set("biufO"):
        raise TypeError("%s has %s, expected numbers" % (name, array.dtype if array.dtype != object else "other objects"))
    if isinstance(array, np.ma.MaskedArray):
        array = array.astype(np.float64).filled(np.nan)
    return np.ascontiguousarray(array, dtype=np.float64)


def _array(value, name, *shape):
    """`value` as contiguous float64 of this shape, in which None is any length."""
    array = _numbers(value, name)
    if array.ndim == 1 and len(shape) == 2 and shape[1] == 1:
        array = array.reshape(-1, 1)
    if array.ndim != len(shape) or any(want is not None and want != have for want, have in zip(shape, array.shape)):
        raise ValueError("%s has shape %s, expected %s" % (name, array.shape, tuple("rows" if want is None else want for want in shape)))
    return array


def _at(array):
    """The address of an array, which lives as long as this does: often it is a copy that nothing else holds."""
    if array is None:
        return None
    address = P(array.ctypes.data)
    address.array = array
    return address


def _owner(value, kind, name):
    """An object of this class, or None."""
    if value is not None and not isinstance(value, kind):
        raise TypeError("%s: a %s is expected, not %s" % (name, kind.__name__, type(value).__name__))
    return value


def _enum(kind, value):
    if isinstance(value, str):
        try:
            return kind[value.upper()]
        except KeyError:
            raise ValueError("%r is none of %s" % (value, ", ".join(member.name.lower() for member in kind))) from None
    if isinstance(value, enum.Enum) and not isinstance(value, kind):
        raise TypeError("%r is no %s" % (value, kind.__name__))
    return kind(value)


_BOOLS = (bool, np.bool_)


def _whole(value, name, kind):
    """ctypes would take -1 for the largest number, and that and 1 for 0. False is no 0: that is the default, say of patience."""
    if isinstance(value, _BOOLS):
        raise TypeError("%s is %r, expected a whole number" % (name, value))
    return _between(0, kind(-1).value, value, name)


def _number(value, name):
    """Nor is it where a negative number means none, as of noise: 0 is the default."""
    try:
        if not isinstance(value, _BOOLS + (str, bytes)):
            return float(value)
    except TypeError:
        pass
    raise TypeError("%s is %r, expected a number" % (name, value))


# Where 0 is the default, and to have it: -1 is not to. actnorm has more than one kind of yes.
_NO_AND_YES = {"standardize": (-1, 0), "actnorm": (-1, 1)}


def _flag(value, name):
    if isinstance(value, _BOOLS):
        value = _NO_AND_YES.get(name, (0, 1))[bool(value)]
    return _between(-2 ** 31, 2 ** 31 - 1, value, name)


def _between(least, most, value, name):
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError("%s is %r, expected a whole number" % (name, value)) from None
    if not least <= value <= most:
        raise ValueError("%s is %d" % (name, value))
    return value


def _size(value, name):
    return _whole(value, name, Z)


def _rng(value):
    if not isinstance(value, Rng):
        raise TypeError("rng: an Rng is expected, not %s" % type(value).__name__)
    return byref(value)


def _path(value):
    path = os.fsencode(value)
    if b"\0" in path:  # C would take what stands before it
        raise ValueError("a path has a null character: %r" % (value,))
    return path


def _copy(pointer, *shape):
    """What a callback is given: its own, to change and to keep, since C goes on with what is there, and frees it."""
    return np.ctypeslib.as_array(pointer, shape).copy()


def _put(into, values, name):
    """What a callback answers, where C wants it: of the very shape, since one row for all would be the wrong numbers."""
    if np.shape(values) != into.shape:
        raise ValueError("%s has shape %s, expected %s, and is not broadcast" % (name, np.shape(values), into.shape))
    into[...] = _numbers(values, name)


def _config(kind, members):
    """A config struct from keyword arguments. What its pointers point to is kept with it."""
    struct = kind(struct_size=ctypes.sizeof(kind))
    struct.kept = []
    kinds = dict(kind._fields_)
    for name, value in members.items():
        if name not in kinds or name in ("struct_size", "reserved"):
            raise TypeError("%s has no member %r" % (kind.__name__, name))
        if kinds[name] is P:
            setattr(struct, name, _pointer(struct.kept, name, value))
        elif kinds[name] is I:
            setattr(struct, name, _enum(_ENUMS[name], value) if name in _ENUMS else _flag(value, name))
        elif kinds[name] is D:
            setattr(struct, name, _number(value, name))
        else:
            setattr(struct, name, NONE if value is None and name in _NONE_MEANS else _whole(value, name, kinds[name]))
    return struct


_STRUCTS = {"allocator": Allocator, "comm": Comm}


def _pointer(kept, name, value):
    if value is None:
        return None
    if name == "optimizer" and isinstance(value, dict):
        value = _config(OptimizerConfig, value)
    if name == "optimizer" and not isinstance(value, OptimizerConfig):
        raise TypeError("optimizer: a dict is expected, such as dict(kind=\"adam\"), not %s" % type(value).__name__)
    if name in _STRUCTS:
        kind, value = _STRUCTS[name], getattr(value, "_obj", value)  # which byref has
        if not isinstance(value, (kind, POINTER(kind), P, int)) or isinstance(value, bool):
            raise TypeError("%s: an nflow.%s is expected, or the address of one, not %s" % (name, kind.__name__, type(value).__name__))
    kept.append(value)
    if isinstance(value, np.ndarray):
        return value.ctypes.data
    if isinstance(value, bytes):
        return ctypes.cast(c_char_p(value), P)
    if isinstance(value, ctypes.Structure):
        return ctypes.addressof(value)
    return ctypes.cast(value, P)


_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM)


class _Calls:
    """Python functions as callbacks of one call: the first exception ends the call, and is raised after it."""

    def __init__(self):
        self.raised = None

    def run(self, function, *arguments):
        """The status of the call. What a handler of a signal raises would be lost between C and the first line of a callback: it is kept for the next."""
        handlers = {}
        if threading.current_thread() is threading.main_thread():
            handlers = {number: signal.getsignal(number) for number in _INTERRUPTS if callable(signal.getsignal(number))}

        def keep(number, frame):
            try:
                handlers[number](number, frame)
            except BaseException as error:
                self.raised = self.raised or error
        try:
            for number in handlers:
                signal.signal(number, keep)
            return _call(function, *arguments)
        finally:
            for number, handler in handlers.items():
                if signal.getsignal(number) is keep:  # and not what a callback has set
                    signal.signal(number, handler)

    def guard(self, kind, call):
        def guarded(*arguments):
            try:
                return Status.ERR_ARGUMENT if self.raised else call(*arguments)
            except BaseException as error:  # of any kind: it may not pass through C
                self.raised = self.raised or error
                return Status.ERR_ARGUMENT
        return kind(guarded)

    def progress(self, kind, struct, function):
        """Without a function too: it is where Ctrl-C can end the call."""
        def call(_, progress):
            return 1 if function and function(struct.from_buffer_copy(progress.contents)) else 0
        return self.guard(kind, call)

    def target(self, function, dim, with_gradient=True):
        """function(x) gives the log density of each row and, where a gradient is wanted, a pair of it and the gradient."""
        def call(_, rows, x, log_density, grad_x):
            answer = function(_copy(x, rows, dim))
            density, gradient = answer if isinstance(answer, tuple) else (answer, None)
            _put(np.ctypeslib.as_array(log_density, (rows,)), density, "the log density")
            if with_gradient:
                if gradient is None:
                    raise ValueError("the target gives no gradient")
                _put(np.ctypeslib.as_array(grad_x, (rows, dim)), gradient, "its gradient")
            return 0
        return None if function is None else self.guard(_TARGET, call)

    def rows(self, function, dim, context_dim):
        """function(row) gives the rows of x with these indices, or a pair of them and their context."""
        def call(_, count, row, x, context):
            answer = function(_copy(row, count))
            values, given = answer if isinstance(answer, tuple) else (answer, None)
            _put(np.ctypeslib.as_array(x, (count, dim)), values, "x of read")
            if context_dim:
                if given is None:
                    raise ValueError("read gives no context")
                _put(np.ctypeslib.as_array(context, (count, context_dim)), given, "the context of read")
            return 0
        return self.guard(_ROWS, call)

    def check(self, status, result=None):
        if self.raised is not None:
            error, self.raised = self.raised, None
            try:
                raise error
            finally:
                del error  # its traceback leads here and to the arguments of the call: in a circle through ctypes, which the collector does not see
        return _check(status, result)


# ---- handles

_lock = threading.RLock()  # of the marks of the calls; a handler of a signal, or the collector, may come back into it
os.register_at_fork(before=_lock.acquire, after_in_parent=_lock.release, after_in_child=_lock.release)  # or a child may wait for a thread that it has not
_CHANGES = {"nf_flow_append", "nf_flow_invert", "nf_flow_set_base_normal", "nf_cnf_set_solver", "nf_affine_standardize", "nf_set_parameters",
            "nf_optimizer_step", "nf_fit", "nf_fit_reverse_kl", "nf_mlp_set_parameters", "nf_mlp_step"}  # those whose flow or net is not const


def _call(function, *arguments, taken=None):
    """What a function of C returns, to which the objects among the arguments go as their handles. Until then nobody can close them, change them, or use
    again what serves one call at a time; nor does another thread read what this call changes. `taken` is freed by a call that succeeds."""
    call, owners = object(), [one for one in arguments if isinstance(one, _Owner)]
    thread, changes = threading.get_ident(), function.__name__ in _CHANGES
    try:
        with _lock:
            for one in owners:
                if not one._shared or changes:
                    one._idle()
                elif any(by not in (None, thread) for by in list(one._calls.values())):
                    raise RuntimeError("the %s is being changed by a call in another thread" % type(one).__name__)
            for one in owners:
                one._calls[call] = thread if changes else None
        arguments = [one.handle if isinstance(one, _Owner) else one for one in arguments]
        if taken is None:
            return function(*arguments)
        handle, taken._handle = taken._handle, None
        status = function(*arguments)
        if status != Status.OK:
            taken._handle = handle
        return status
    finally:
        for one in owners:
            one._calls.pop(call, None)


def _look(name, answer=lambda value: value):
    """A property that no fit changes. With the lock, without which a handle is not freed and layers are not moved."""
    def look(self):
        with _lock:
            return answer(getattr(lib, name)(self.handle))
    return property(look)


class _Owner:
    """A handle that is freed once."""
    _handle, _calls, _kept = None, {}, []
    _shared = False  # whether calls may share it that do not change it

    def __init__(self, create, *arguments):
        handle = P()
        self._calls = {}  # those that have it now, and of those that change it, the thread
        # C frees it by the allocator of its config, or of what it is made from.
        self._kept = [one._kept if isinstance(one, _Owner) else getattr(getattr(one, "_obj", None), "kept", None) for one in arguments]
        _check(_call(create, *arguments, byref(handle)))
        self._handle = handle.value

    def _idle(self):
        if self._calls:
            raise RuntimeError("the %s is in use by a call that has not ended" % type(self).__name__)

    @property
    def handle(self):
        if self._handle is None:
            raise ValueError("the %s is closed" % type(self).__name__)
        return self._handle

    def close(self):
        with _lock:
            self._idle()
            handle, self._handle = self._handle, None
        if handle is not None:
            self._free(handle)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __reduce_ex__(self, _):
        raise TypeError("a %s is neither copied nor pickled: two objects would free one handle" % type(self).__name__)

    def __del__(self):
        try:
            self.close()
        except (AttributeError, TypeError):  # the interpreter is ending
            pass


class Workspace(_Owner):
    """Scratch memory and threads of calls on a flow (or of a net's calls)."""
    _free = staticmethod(lib.nf_workspace_free)

    def __init__(self, of, threads=1):
        if isinstance(of, Mlp):
            super().__init__(lib.nf_mlp_workspace_create, of)
        else:
            super().__init__(lib.nf_workspace_create, _owner(of, Flow, "of"), _size(threads, "threads"))

    def stats(self):
        stats = Stats(struct_size=ctypes.sizeof(Stats))
        return _check(_call(lib.nf_workspace_stats, self, byref(stats)), stats)


class Gradient(_Owner):
    """An accumulator of parameter gradients; starts at zero."""
    _free = staticmethod(lib.nf_gradient_free)

    def __init__(self, of):
        kind, create = (Mlp, lib.nf_mlp_gradient_create) if isinstance(of, Mlp) else (Flow, lib.nf_gradient_create)
        super().__init__(create, _owner(of, kind, "of"))
        self._count = of.parameter_count

    def zero(self):
        _check(_call(lib.nf_gradient_zero, self))

    @property
    def values(self):
        values = np.empty(self._count)
        return _check(_call(lib.nf_gradient_get, self, _at(values)), values)

    @values.setter
    def values(self, values):
        _check(_call(lib.nf_gradient_set, self, _at(_array(values, "values", self._count))))


class Optimizer(_Owner):
    """An update rule and its state: Optimizer(flow, kind="adam", learning_rate=1e-3)."""
    _free = staticmethod(lib.nf_optimizer_free)

    def __init__(self, of, **config):
        config = _config(OptimizerConfig, config)
        self._kind, create, self._step = (Mlp, lib.nf_mlp_optimizer_create, lib.nf_mlp_step) if isinstance(of, Mlp) else (
            Flow, lib.nf_optimizer_create, lib.nf_optimizer_step)
        super().__init__(create, _owner(of, self._kind, "of"), byref(config))

    def step(self, of, gradient):
        """Move the parameters of the flow or net that the optimizer was made from."""
        _check(_call(self._step, self, _owner(of, self._kind, "of"), _owner(gradient, Gradient, "gradient")))

    def set_learning_rate(self, learning_rate):
        _check(_call(lib.nf_optimizer_set_learning_rate, self, _number(learning_rate, "learning_rate")))


class Flow(_Owner):
    """A base density and a stack of layers. Made by the class methods: realnvp, planar, radial, cnf, permutation, affine, identity, load."""
    _free = staticmethod(lib.nf_flow_free)
    _shared = True

    # -- building

    @classmethod
    def realnvp(cls, dim, **config):
        return cls(lib.nf_realnvp_create, byref(_config(RealnvpConfig, dict(config, dim=dim))))

    @classmethod
    def planar(cls, dim, **config):
        return cls(lib.nf_planar_create, byref(_config(PlanarConfig, dict(config, dim=dim))))

    @classmethod
    def radial(cls, dim, **config):
        return cls(lib.nf_radial_create, byref(_config(RadialConfig, dict(config, dim=dim))))

    @classmethod
    def cnf(cls, dim, **config):
        return cls(lib.nf_cnf_create, byref(_config(CnfConfig, dict(config, dim=dim))))

    @classmethod
    def permutation(cls, source, precision="double"):
        """x[j] = z[source[j]]."""
        source = np.array([_size(one, "source") for one in source], dtype=np.uintp)
        return cls(lib.nf_permutation_create, source.size, _at(source), _enum(Precision, precision))

    @classmethod
    def affine(cls, dim, precision="double"):
        return cls(lib.nf_affine_create, _size(dim, "dim"), _enum(Precision, precision))

    @classmethod
    def identity(cls, dim, context_dim=0, precision="double"):
        return cls(lib.nf_flow_create, _size(dim, "dim"), _size(context_dim, "context_dim"), _enum(Precision, precision))

    @classmethod
    def load(cls, path):
        return cls(lib.nf_flow_load, _path(path))

    @classmethod
    def loads(cls, data):
        """From the bytes of a model file: bytes, or what gives a view of them, such as bytearray, memoryview and mmap."""
        data = np.frombuffer(memoryview(data), dtype=np.uint8)
        return cls(lib.nf_flow_load_memory, _at(data), data.size)

    def save(self, path):
        _check(_call(lib.nf_flow_save, self, _path(path)))

    def dumps(self):
        """The bytes of a model file."""
        pointer, size = P(), Z()
        _check(_call(lib.nf_flow_save_memory, self, byref(pointer), byref(size)))
        try:
            return ctypes.string_at(pointer, size.value)
        finally:
            lib.nf_free(pointer)

    def __reduce_ex__(self, _):
        """For copy and pickle, also into other processes."""
        return Flow.loads, (self.dumps(),)

    def clone(self):
        return Flow(lib.nf_flow_clone, self)

    def convert(self, precision):
        return Flow(lib.nf_flow_convert, self, _enum(Precision, precision))

    def append(self, part):
        """Move the layers of `part` to the data end; `part` is closed."""
        with _lock:
            _check(_call(lib.nf_flow_append, self, _owner(part, Flow, "part"), taken=part))
            self._kept = [self._kept, part._kept]

    def invert(self):
        with _lock:
            _check(_call(lib.nf_flow_invert, self))

    def set_base_normal(self, mean=None, sd=None):
        mean, sd = (None if value is None else _array(value, name, self.dim) for value, name in ((mean, "mean"), (sd, "sd")))
        _check(_call(lib.nf_flow_set_base_normal, self, _at(mean), _at(sd)))

    def set_solver(self, method="dopri5", rtol=0, atol=0, steps=0, max_steps=0):
        _check(_call(lib.nf_cnf_set_solver, self, _enum(OdeMethod, method), _number(rtol, "rtol"), _number(atol, "atol"), _size(steps, "steps"),
                     _size(max_steps, "max_steps")))

    def standardize(self, x):
        """Of a flow that is one affine layer: take N(0, I) to the mean and standard deviation of the columns of x."""
        x = self._rows(x, "x")
        _check(_call(lib.nf_affine_standardize, self, len(x), _at(x)))

    # -- looking

    dim = _look("nf_flow_dim")
    context_dim = _look("nf_flow_context_dim")
    layer_count = _look("nf_flow_layer_count")
    precision = _look("nf_flow_precision", Precision)
    isa = _look("nf_flow_isa", bytes.decode)
    parameter_count = _look("nf_parameter_count")

    @property
    def parameters(self):
        with _lock:  # or layers are appended between the count and the numbers
            values = np.empty(self.parameter_count)
            return _check(_call(lib.nf_get_parameters, self, _at(values)), values)

    @parameters.setter
    def parameters(self, values):
        values = _numbers(values, "parameters")
        with _lock:
            _check(_call(lib.nf_set_parameters, self, _at(_array(values, "parameters", self.parameter_count))))

    def tensors(self, parameters=None):
        """{name: array}: views into `parameters` (or a gradient's values); without it into a copy of the flow's."""
        parameters = self.parameters if parameters is None else parameters
        if not isinstance(parameters, np.ndarray):
            raise TypeError("parameters: an array is expected, to give views into, not %s" % type(parameters).__name__)
        if parameters.shape != (self.parameter_count,):
            raise ValueError("parameters has shape %s, expected %s" % (parameters.shape, (self.parameter_count,)))
        found = {}
        with _lock:  # the names last as long as the layers
            for index in range(lib.nf_tensor_count(self.handle)):
                info = Tensor(struct_size=ctypes.sizeof(Tensor))
                _check(lib.nf_tensor_info(self.handle, index, byref(info)))
                shape = tuple(info.shape[:info.rank])
                count = int(np.prod(shape))
                found[ctypes.string_at(info.name).decode()] = parameters[info.offset:info.offset + count].reshape(shape)
        return found

    def __repr__(self):
        return "<closed Flow>" if self._handle is None else "<Flow: dim %d, %d layers, %d parameters>" % (
            self.dim, self.layer_count, self.parameter_count)

    # -- evaluating

    def _rows(self, value, name):
        return _array(value, name, None, self.dim)

    def _context(self, context, rows):
        if context is None:
            if self.context_dim:
                raise ValueError("context is None, expected (%d, %d)" % (rows, self.context_dim))
            return None
        context = _array(context, "context", rows, self.context_dim)
        return context if self.context_dim else None  # C takes none at all for a flow without

    def _map(self, call, value, name, context, workspace, log_det):
        value = self._rows(value, name)
        out, log_det = np.empty_like(value), np.empty(len(value)) if log_det else None
        status = _call(call, self, _owner(workspace, Workspace, "workspace"), len(value), _at(value), _at(self._context(context, len(value))),
                      _at(out), _at(log_det))
        return _check(status, (out, log_det) if log_det is not None else out)

    def forward(self, z, context=None, workspace=None):
        """(x, log_det) of the map from base to data."""
        return self._map(lib.nf_forward, z, "z", context, workspace, True)

    def inverse(self, x, context=None, workspace=None):
        """(z, log_det) of the map from data to base."""
        return self._map(lib.nf_inverse, x, "x", context, workspace, True)

    def log_prob(self, x, context=None, workspace=None):
        x = self._rows(x, "x")
        log_prob = np.empty(len(x))
        status = _call(lib.nf_log_prob, self, _owner(workspace, Workspace, "workspace"), len(x), _at(x), _at(self._context(context, len(x))),
                                 _at(log_prob))
        return _check(status, log_prob)

    def score(self, x, context=None, workspace=None):
        """(log_prob, its gradient with respect to x)."""
        x = self._rows(x, "x")
        log_prob, score = np.empty(len(x)), np.empty_like(x)
        status = _call(lib.nf_score, self, _owner(workspace, Workspace, "workspace"), len(x), _at(x), _at(self._context(context, len(x))),
                              _at(log_prob), _at(score))
        return _check(status, (log_prob, score))

    def sample(self, rows, rng, context=None, workspace=None):
        """(x, log_prob): draws, and the log density at them. Advances rng."""
        rows = _size(rows, "rows")
        x, log_prob = np.empty((rows, self.dim)), np.empty(rows)
        status = _call(lib.nf_sample, self, _owner(workspace, Workspace, "workspace"), _rng(rng), rows, _at(self._context(context, rows)), _at(x),
                               _at(log_prob))
        return _check(status, (x, log_prob))

    def trajectory(self, z, t, context=None, workspace=None):
        """Of a flow that is one CNF layer: where z is at the instants t, times x rows x dim."""
        z, t = self._rows(z, "z"), _array(t, "t", None)
        path = np.empty((len(t),) + z.shape)
        status = _call(lib.nf_cnf_trajectory, self, _owner(workspace, Workspace, "workspace"), len(z), _at(z), _at(self._context(context, len(z))),
                                       len(t), _at(t), _at(path))
        return _check(status, path)

    # -- gradients: each adds to `gradient`; the losses are returned

    def grad_nll(self, x, gradient, context=None, weight=None, workspace=None):
        x, loss = self._rows(x, "x"), D()
        weight = None if weight is None else _array(weight, "weight", len(x))
        status = _call(lib.nf_grad_nll, self, _owner(workspace, Workspace, "workspace"), len(x), _at(x), _at(self._context(context, len(x))),
                                 _at(weight), _owner(gradient, Gradient, "gradient"), byref(loss))
        return _check(status, loss.value)

    def grad_reverse_kl(self, rows, rng, target, gradient, context=None, workspace=None):
        """target(x) gives (log density, its gradient)."""
        calls, loss, rows = _Calls(), D(), _size(rows, "rows")
        call = calls.target(target, self.dim)
        status = calls.run(lib.nf_grad_reverse_kl, self, _owner(workspace, Workspace, "workspace"), _rng(rng), rows,
                           _at(self._context(context, rows)), ctypes.cast(call, P), None, _owner(gradient, Gradient, "gradient"), byref(loss))
        return calls.check(status, loss.value)

    def grad_flow_matching(self, x, rng, gradient, context=None, weight=None, pairing="independent", workspace=None):
        x, loss = self._rows(x, "x"), D()
        weight = None if weight is None else _array(weight, "weight", len(x))
        status = _call(lib.nf_grad_flow_matching, self, _owner(workspace, Workspace, "workspace"), _rng(rng), len(x), _at(x),
                                           _at(self._context(context, len(x))), _at(weight), _enum(Pairing, pairing),
                                           _owner(gradient, Gradient, "gradient"), byref(loss))
        return _check(status, loss.value)

    def _vjp(self, call, value, name, grad_out, grad_log_det, context, gradient, workspace):
        value = self._rows(value, name)
        rows = len(value)
        grad_out = None if grad_out is None else self._rows(grad_out, "the cotangent")
        grad_log_det = None if grad_log_det is None else _array(grad_log_det, "grad_log_det", rows)
        if grad_out is not None and len(grad_out) != rows:
            raise ValueError("the cotangent has %d rows, expected %d" % (len(grad_out), rows))
        grad_in, grad_context = np.empty_like(value), np.empty((rows, self.context_dim)) if self.context_dim else None
        status = _call(call, self, _owner(workspace, Workspace, "workspace"), rows, _at(value), _at(self._context(context, rows)), _at(grad_out),
                      _at(grad_log_det), _at(grad_in), _at(grad_context), _owner(gradient, Gradient, "gradient"))
        return _check(status, (grad_in, grad_context))

    def forward_vjp(self, z, grad_x, grad_log_det=None, context=None, gradient=None, workspace=None):
        """(cotangent of z, of the context or None)."""
        return self._vjp(lib.nf_forward_vjp, z, "z", grad_x, grad_log_det, context, gradient, workspace)

    def inverse_vjp(self, x, grad_z, grad_log_det=None, context=None, gradient=None, workspace=None):
        """(cotangent of x, of the context or None)."""
        return self._vjp(lib.nf_inverse_vjp, x, "x", grad_z, grad_log_det, context, gradient, workspace)

    # -- training

    def fit(self, x=None, context=None, progress=None, weight=None, validation_x=None, validation_context=None, validation_weight=None,
            checkpoint=None, read=None, rows=None, **config):
        """Fit to rows of x by mini-batches; the report. progress(p) is called after each epoch and stops the fit when it returns true.

        Or to `rows` rows of which read(row) gives those with the indices row, count x dim, with a context as a pair. Rows that are not finite are left
        out, which is a RowsWarning, and a RowsError if there is none to learn from.
        """
        if (x is None) != (read is not None and rows is not None) or (x is not None and rows is not None):
            raise ValueError("fit takes x, or read and rows")
        if x is None and context is not None:
            raise ValueError("read gives the context, as a pair with the rows")
        if validation_x is None and (validation_context is not None or validation_weight is not None):
            raise ValueError("validation_context and validation_weight go with validation_x")
        calls = _Calls()
        if x is None:
            count = _size(rows, "rows")
            config["read"] = calls.rows(read, self.dim, self.context_dim)
        else:
            x = self._rows(x, "x")
            count, context = len(x), self._context(context, len(x))
        report = FitReport(struct_size=ctypes.sizeof(FitReport))
        if validation_x is not None:
            validation_x = self._rows(validation_x, "validation_x")
            held = len(validation_x)
            config.update(validation_x=validation_x, validation_rows=held, validation_context=self._context(validation_context, held))
            if validation_weight is not None:
                config["validation_weight"] = _array(validation_weight, "validation_weight", held)
        elif validation_context is not None or validation_weight is not None:
            raise ValueError("validation_context and validation_weight go with validation_x")
        if weight is not None:
            config["weight"] = _array(weight, "weight", count)
        if checkpoint is not None:
            config["checkpoint"] = _path(checkpoint)
        config["progress"] = calls.progress(_PROGRESS, FitProgress, progress)
        config = _config(FitConfig, config)
        status = calls.run(lib.nf_fit, self, count, _at(x), _at(context), byref(config), byref(report))
        if status == Status.ERR_ROWS and calls.raised is None and report.steps:
            warnings.warn(lib.nf_last_error().decode("utf-8", "replace"), RowsWarning, stacklevel=2)
            return report
        return calls.check(status, report)

    def fit_reverse_kl(self, target, progress=None, context=None, **config):
        """Fit to an unnormalised density; the report. target(x) gives (log density, its gradient) of the rows of x."""
        calls = _Calls()
        report = ReverseKlReport(struct_size=ctypes.sizeof(ReverseKlReport))
        if context is not None:
            config["context"] = self._context(context, config.get("samples") or 256)
        config["progress"] = calls.progress(_REVERSE_KL_PROGRESS, ReverseKlProgress, progress)
        config = _config(ReverseKlConfig, config)
        call = calls.target(target, self.dim)
        return calls.check(calls.run(lib.nf_fit_reverse_kl, self, ctypes.cast(call, P), None, byref(config), byref(report)), report)

    def diagnose(self, x=None, context=None, target=None, **config):
        """Whether the flow is what it claims to be, and with data, whether it is what they are. diagnosis_text(report) prints it."""
        calls = _Calls()
        report = DiagnoseReport(struct_size=ctypes.sizeof(DiagnoseReport))
        x = None if x is None else self._rows(x, "x")
        if x is not None:
            rows = len(x)
        else:
            rows = 0 if context is None else len(context)
        config["target"] = calls.target(target, self.dim, False)
        config = _config(DiagnoseConfig, config)
        context = None if context is None else self._context(context, rows)
        return calls.check(calls.run(lib.nf_diagnose, self, rows, _at(x), _at(context), byref(config), byref(report)), report)


def diagnosis_text(report):
    if not isinstance(report, DiagnoseReport):
        raise TypeError("report: a DiagnoseReport is expected, not %s" % type(report).__name__)
    text = ctypes.create_string_buffer(lib.nf_diagnose_text(byref(report), None, 0) + 1)
    lib.nf_diagnose_text(byref(report), text, len(text))
    return text.value.decode()


class Mlp(_Owner):
    """A net beside a flow: Mlp(inputs, outputs, hidden_width=64)."""
    _free = staticmethod(lib.nf_mlp_free)
    _shared = True

    def __init__(self, inputs, outputs, **config):
        super().__init__(lib.nf_mlp_create, byref(_config(MlpConfig, dict(config, inputs=inputs, outputs=outputs))))
        self.inputs, self.outputs = inputs, outputs

    parameter_count = _look("nf_mlp_parameter_count")

    @property
    def parameters(self):
        values = np.empty(self.parameter_count)
        return _check(_call(lib.nf_mlp_get_parameters, self, _at(values)), values)

    @parameters.setter
    def parameters(self, values):
        _check(_call(lib.nf_mlp_set_parameters, self, _at(_array(values, "parameters", self.parameter_count))))

    def forward(self, x, workspace=None):
        x = _array(x, "x", None, self.inputs)
        y = np.empty((len(x), self.outputs))
        return _check(_call(lib.nf_mlp_forward, self, _owner(workspace, Workspace, "workspace"), len(x), _at(x), _at(y)), y)

    def vjp(self, x, grad_y, gradient=None, workspace=None):
        """The cotangent of x; that of the parameters is added to `gradient`."""
        x = _array(x, "x", None, self.inputs)
        grad_y, grad_x = _array(grad_y, "grad_y", len(x), self.outputs), np.empty_like(x)
        status = _call(lib.nf_mlp_vjp, self, _owner(workspace, Workspace, "workspace"), len(x), _at(x), _at(grad_y), None, _at(grad_x),
                                _owner(gradient, Gradient, "gradient"))
        return _check(status, grad_x)


def ode_solve(f, y, t0, t1, times=None, **config):
    """y(t1) of rows of independent systems y' = f(t, y, row), from y (rows x size) at t0; with `times`, (y(t1), times x rows x size).

    f gets the times and states of some of the rows, at most 16, and their indices, and gives count x size.
    """
    y, calls = np.array(_numbers(y, "y")), _Calls()
    if y.ndim != 2:
        raise ValueError("y has shape %s, expected (rows, size)" % (y.shape,))
    rows, size = y.shape
    times = np.empty(0) if times is None else _array(times, "times", None)
    path = np.empty((len(times), rows, size))

    def call(_, count, row, t, state, dydt):
        _put(np.ctypeslib.as_array(dydt, (count, size)), f(_copy(t, count), _copy(state, count, size), _copy(row, count)), "f")
        return 0
    some = len(times) > 0
    callback = calls.guard(_ODE, call)
    status = calls.run(lib.nf_ode_solve, byref(_config(OdeConfig, config)), rows, size, ctypes.cast(callback, P), None, _number(t0, "t0"),
                       _number(t1, "t1"), _at(y), len(times), _at(times) if some else None, _at(path) if some else None, None)
    return calls.check(status, (y, path) if some else y)
