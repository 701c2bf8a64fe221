"""What is Python's own in nflow.py: arrays, errors, callbacks, handles; and its tables against the header and the C compiler.

usage: test_nflow.py HEADER LAYOUT   the header, and the output of the program that bindings/tests/header.py writes in C
"""
import copy
import ctypes
import decimal
import fractions
import gc
import os
import pickle
import re
import signal
import sys
import tempfile
import threading
import unittest
import unittest.mock
import warnings
import weakref

import numpy as np

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "tests"))
import nflow  # noqa: E402
from header import Header  # noqa: E402

HEADER, LAYOUT = sys.argv[1:3]


def camel(name):
    return "".join(word.capitalize() for word in name.split("_")[1:])


class Tables(unittest.TestCase):
    header = Header(HEADER)

    def test_structs(self):
        lines = []
        for name, members in self.header.structs.items():
            struct = getattr(nflow, camel(name))
            lines.append("%s %d" % (name, ctypes.sizeof(struct)))
            self.assertEqual([member for member, _, _ in members], [member for member, _ in struct._fields_])
            for member, _ in struct._fields_:
                at = getattr(struct, member)
                lines.append("%s.%s %d %d" % (name, member, at.offset, at.size))
        with open(LAYOUT, encoding="ascii") as layout:
            expected = [line for line in layout.read().splitlines() if line.startswith("nf_")]
        self.assertEqual(lines, expected)

    def test_enums(self):
        for name, values in self.header.enums.items():
            members = getattr(nflow, camel(name))
            self.assertEqual(len(members), len(values))
            for member, (key, value) in zip(members, values):
                self.assertTrue(key.endswith("_" + member.name), key)
                self.assertEqual(member.value, value)

    def kind(self, c_type):
        plain = c_type.replace("const ", "")
        if "*" in plain or plain in self.header.callbacks:
            return nflow.P
        if plain in self.header.enums or plain == "int":
            return nflow.I
        return {"size_t": nflow.Z, "uint64_t": nflow.U, "double": nflow.D}[plain]

    def test_functions(self):
        self.assertEqual(set(nflow.SIGNATURES), set(self.header.functions))
        for name, (result, parameters) in self.header.functions.items():
            self.assertEqual(nflow.SIGNATURES[name], tuple(self.kind(c_type) for _, c_type in parameters), name)
            expected = {"void": None, "const char *": ctypes.c_char_p}.get(result, False)
            self.assertEqual(nflow.RESULTS.get(name, nflow.I), self.kind(result) if expected is False else expected, name)
        changes = {name for name, (_, parameters) in self.header.functions.items()
                   if not name.endswith("_free") and any(c_type in ("nf_flow *", "nf_mlp *") for _, c_type in parameters)}
        self.assertEqual(nflow._CHANGES, changes)


class Arrays(unittest.TestCase):
    def setUp(self):
        self.flow = nflow.Flow.realnvp(dim=3, couplings=2, seed=5)
        self.x, _ = self.flow.sample(50, nflow.Rng(seed=1))
        self.log_prob = self.flow.log_prob(self.x)

    def test_contiguous_arrays_are_not_copied(self):
        self.assertIs(nflow._array(self.x, "x", None, 3), self.x)
        part = self.x[10:20]
        self.assertEqual(nflow._array(part, "x", None, 3).ctypes.data, part.ctypes.data)

    def test_other_arrays_are_copied(self):
        for other in (np.asfortranarray(self.x), np.repeat(self.x, 2, axis=0)[::2], self.x.tolist()):
            np.testing.assert_array_equal(self.flow.log_prob(other), self.log_prob)
        single = self.flow.log_prob(self.x.astype(np.float32))
        np.testing.assert_array_equal(single, self.flow.log_prob(self.x.astype(np.float32).astype(float)))

    def test_masked_values_are_missing(self):
        flow = nflow.Flow.planar(dim=2, layers=2, seed=2)
        for kind in (np.float64, np.int32):
            x = np.ma.masked_equal(np.array([[1, 2], [3, 99]], dtype=kind), 99)
            with self.assertRaisesRegex(nflow.RowsError, r"x\[1\]\[1\] is nan"):
                flow.log_prob(x)

    def test_what_is_no_number_is_refused(self):
        flow = nflow.Flow.planar(dim=2, layers=2, seed=2)
        for wrong in ([[1, 2j]], [["1", "2"]], [[b"1", b"2"]], np.array([["2020-01-01", "2020-01-02"]], dtype="M8[D]"),
                      np.array([[1, 2]], dtype="m8[s]"), np.array([[1, "2"]], dtype=object), np.array([[1, np.complex64(2)]], dtype=object),
                      np.ma.masked_equal(np.array([[1j, 2]]), 2)):
            with self.assertRaisesRegex(TypeError, "x has .*, expected numbers"):
                flow.log_prob(wrong)
            with self.assertRaisesRegex(TypeError, "y has .*, expected numbers"):
                nflow.ode_solve(lambda t, y, row: y, wrong, 0, 1)
        before = flow.parameters
        for wrong in (lambda x: (np.full(len(x), 1j), -x), lambda x: (["1"] * len(x), -x), lambda x: (x[:, 0], 1j * x)):
            with self.assertRaisesRegex(TypeError, "expected numbers"):
                flow.fit_reverse_kl(wrong, steps=2)
        np.testing.assert_array_equal(flow.parameters, before)
        expected = flow.log_prob(np.array([[1., 0.]]))
        for right in ([[1, 0]], [[True, False]], np.array([[True, False]]), np.array([[1, 0]], dtype=np.float16), np.array([[1, 0]], dtype=np.uint8),
                      np.array([[1, 0]], dtype=np.longdouble), np.array([[fractions.Fraction(1), decimal.Decimal(0)]], dtype=object)):
            np.testing.assert_array_equal(flow.log_prob(right), expected)
        with self.assertRaisesRegex(nflow.RowsError, r"x\[0\]\[1\] is nan"):
            flow.log_prob(np.array([[1, None]], dtype=object))

    def test_masked_answers_are_missing(self):
        flow = nflow.Flow.planar(dim=2, layers=2, seed=2)
        mask = np.arange(10) < 3
        with nflow.Gradient(flow) as gradient, self.assertRaisesRegex(nflow.RowsError, "3 bad rows"):
            flow.grad_reverse_kl(10, nflow.Rng(1), lambda x: (np.ma.masked_array(np.zeros(10), mask=mask), -x), gradient)

    def test_shapes_are_checked(self):
        for wrong in (self.x[:, :2], self.x[0], self.x[None]):
            with self.assertRaisesRegex(ValueError, "x has shape"):
                self.flow.log_prob(wrong)
        with self.assertRaisesRegex(ValueError, "parameters"):
            self.flow.parameters = np.zeros(3)
        with self.assertRaisesRegex(ValueError, "weight"):
            self.flow.fit(self.x, weight=np.ones(3))
        with self.assertRaisesRegex(ValueError, "go with validation_x"):
            self.flow.fit(self.x, validation_weight=np.ones(3))

    def test_tensors_are_of_the_parameters(self):
        parameters = np.zeros(self.flow.parameter_count)
        for number, tensor in enumerate(self.flow.tensors(parameters).values()):
            tensor[...] = number
        self.assertEqual(set(parameters), set(range(len(self.flow.tensors()))))
        for wrong in (parameters[1:], np.append(parameters, 0), parameters[:, None]):
            with self.assertRaisesRegex(ValueError, r"parameters has shape .*, expected \(%d,\)" % len(parameters)):
                self.flow.tensors(wrong)
        for wrong in (parameters.tolist(), "parameters", memoryview(parameters)):
            with self.assertRaisesRegex(TypeError, "parameters: an array is expected"):
                self.flow.tensors(wrong)

    def test_a_column(self):
        flow = nflow.Flow.planar(dim=1, layers=2)
        self.assertEqual(flow.log_prob(np.zeros(4)).shape, (4,))

    def test_context(self):
        flow = nflow.Flow.realnvp(dim=2, context_dim=1, couplings=2, seed=1)
        x = np.array([[.3, -.4], [1.2, .7]])
        self.assertTrue(np.all(np.isfinite(flow.log_prob(x, context=[.5, -.25]))))
        with self.assertRaisesRegex(ValueError, "context"):
            flow.log_prob(x)
        with self.assertRaisesRegex(ValueError, "context"):
            flow.log_prob(x, context=np.zeros((3, 1)))
        np.testing.assert_array_equal(self.flow.log_prob(self.x, context=self.x[:, 3:]), self.log_prob)
        self.flow.fit(self.x, context=self.x[:, 3:], epochs=1)
        self.flow.fit_reverse_kl(lambda x: (-.5 * (x * x).sum(1), -x), context=np.empty((256, 0)), steps=1)

    def test_copies_last_as_long_as_the_call(self):
        """Contexts and parameters that had to be copied: as those that are used where they lie."""
        rng = np.random.default_rng(9)
        flow = nflow.Flow.realnvp(dim=2, context_dim=1, couplings=2, hidden_width=8, seed=3)
        flow.parameters = flow.parameters + rng.normal(size=flow.parameter_count) / 4
        gradient = nflow.Gradient(flow)
        x, context = rng.normal(size=(2000, 2)), rng.normal(size=(2000, 1)).astype(np.float32)
        calls = [flow.log_prob, flow.score, flow.forward, flow.inverse,
                 lambda x, context: flow.sample(len(x), nflow.Rng(1), context=context),
                 lambda x, context: flow.forward_vjp(x, x, context=context), lambda x, context: [flow.grad_nll(x, gradient, context)],
                 lambda x, context: nflow.Flow.cnf(dim=2, context_dim=1, hidden_width=8, method="euler", steps=2).trajectory(x, [1], context=context)]
        for call in calls:
            for one, other in zip(call(x, context=context.astype(float)), call(x, context=context)):
                np.testing.assert_array_equal(one, other)
        parameters = rng.normal(size=flow.parameter_count).astype(np.float32)
        flow.parameters = parameters
        np.testing.assert_array_equal(flow.parameters, parameters)
        gradient.values = parameters
        np.testing.assert_array_equal(gradient.values, parameters)

    def test_round_trip_and_derivatives(self):
        z, inverse = self.flow.inverse(self.x)
        x, forward = self.flow.forward(z)
        np.testing.assert_allclose(x, self.x, rtol=0, atol=1e-12)
        np.testing.assert_allclose(forward, -inverse, rtol=0, atol=1e-12)
        _, score = self.flow.score(self.x)
        base, _ = self.flow.inverse_vjp(self.x, -z, np.ones(len(z)))  # d(-|z|^2 / 2 + log_det) / dx
        np.testing.assert_allclose(base, score, rtol=0, atol=1e-12)

    def test_tensors_are_views(self):
        parameters = self.flow.parameters
        tensors = self.flow.tensors(parameters)
        self.assertEqual(sum(tensor.size for tensor in tensors.values()), self.flow.parameter_count)
        for tensor in tensors.values():
            tensor += .125
        self.flow.parameters = parameters
        np.testing.assert_array_equal(self.flow.parameters, parameters)
        self.assertFalse(np.array_equal(self.flow.log_prob(self.x), self.log_prob))


class Errors(unittest.TestCase):
    def test_kinds(self):
        with self.assertRaisesRegex(nflow.ArgumentError, "dim") as raised:
            nflow.Flow.realnvp(dim=0)
        self.assertEqual(raised.exception.status, nflow.Status.ERR_ARGUMENT)
        self.assertIsInstance(raised.exception, ValueError)
        with self.assertRaises(nflow.FileError):
            nflow.Flow.load("/nonexistent/model")
        with self.assertRaises(nflow.FormatError):
            nflow.Flow.loads(b"nothing")
        flow, other = nflow.Flow.planar(dim=2), nflow.Flow.planar(dim=3)
        with nflow.Workspace(other) as workspace, self.assertRaises(nflow.MismatchError):
            flow.log_prob([[1., 2.]], workspace=workspace)
        with self.assertRaises(nflow.MismatchError):
            flow.append(other)
        self.assertEqual(other.dim, 3)

    def test_configs(self):
        with self.assertRaisesRegex(TypeError, "no member 'layer'"):
            nflow.Flow.planar(dim=2, layer=1)
        with self.assertRaisesRegex(ValueError, "tanh"):
            nflow.Flow.realnvp(dim=2, activation="tangent")
        with self.assertRaisesRegex(ValueError, "couplings"):
            nflow.Flow.realnvp(dim=2, couplings=-1)
        with self.assertRaisesRegex(ValueError, "threads"):
            nflow.Workspace(nflow.Flow.planar(dim=2), threads=-1)
        with self.assertRaisesRegex(ValueError, "source"):
            nflow.Flow.permutation([1, -1])
        linear = nflow.Flow.realnvp(dim=2, couplings=1, hidden_layers=None, actnorm=-1)
        self.assertEqual(linear.parameter_count, 4)
        for wanted, layers in ((False, 2), (0, 3), (True, 4), (np.False_, 2)):
            self.assertEqual(nflow.Flow.realnvp(dim=2, couplings=2, actnorm=wanted).layer_count, layers)
        self.assertEqual(nflow.Flow.realnvp(dim=2, precision="single").precision, nflow.Precision.SINGLE)
        self.assertEqual(nflow.Flow.realnvp(dim=2, couplings=None).layer_count, 1)
        self.assertEqual(nflow.Flow.planar(dim=2, layers=None).layer_count, 0)
        self.assertEqual(nflow.Mlp(2, 1, hidden_layers=None).parameter_count, 3)
        for member in ("dim", "context_dim", "hidden_width", "seed", "actnorm"):
            with self.assertRaisesRegex(TypeError, member + " is None, expected a whole number"):
                nflow.Flow.realnvp(**dict({"dim": 2}, **{member: None}))
        for wrong, error in ((1.5, TypeError), ("1", TypeError), (2 ** 32, ValueError), (-2 ** 31 - 1, ValueError)):
            with self.assertRaisesRegex(error, "actnorm is "):
                nflow.Flow.realnvp(dim=2, actnorm=wrong)
        with self.assertRaisesRegex(TypeError, "no Activation"):
            nflow.Flow.realnvp(dim=2, activation=nflow.Scale.EXP)

    def test_whole_numbers(self):
        for wrong in (-1, 2 ** 64):
            for member in ("seed", "stream", "position"):
                with self.assertRaisesRegex(ValueError, member):
                    nflow.Rng(**{member: wrong})
            with self.assertRaisesRegex(ValueError, "seed"):
                nflow.Rng(wrong)
        rng = nflow.Rng(np.int64(7), position=2 ** 64 - 1)
        self.assertEqual((rng.seed, rng.stream, rng.position), (7, 0, 2 ** 64 - 1))
        with self.assertRaisesRegex(ValueError, "position"):
            rng.position = -1
        with self.assertRaisesRegex(TypeError, "'sed'"):
            nflow.Rng(sed=1)
        flow = nflow.Flow.realnvp(dim=2, couplings=2, hidden_width=8)
        with self.assertRaisesRegex(ValueError, "rows is -1"):
            flow.sample(-1, nflow.Rng())
        for wrong in (None, 1, np.random.default_rng(1), nflow.Stats()):
            with self.assertRaisesRegex(TypeError, "an Rng is expected"):
                flow.sample(1, wrong)

    def test_null_characters(self):
        flow = nflow.Flow.planar(dim=2)
        for call in (flow.save, nflow.Flow.load, lambda path: flow.fit([[1., 2.]] * 9, epochs=1, checkpoint=path)):
            with self.assertRaisesRegex(ValueError, "null"):
                call("/nonexistent/a\0b")

    def test_what_goes_together(self):
        flow = nflow.Flow.planar(dim=2)
        x = np.random.default_rng(1).normal(size=(20, 2))
        with self.assertRaisesRegex(TypeError, "optimizer: a dict"):
            flow.fit(x, epochs=1, optimizer="adam")
        with self.assertRaisesRegex(ValueError, "read and rows"):
            flow.fit(x, rows=5, epochs=1)
        for alone in ("validation_context", "validation_weight"):
            with self.assertRaisesRegex(ValueError, "go with validation_x"):
                flow.fit(x, epochs=1, **{alone: np.ones(20)})

    def test_bad_rows(self):
        flow = nflow.Flow.planar(dim=2, layers=3, seed=4)
        x = np.array([[.5, .25], [np.nan, 1.], [-1., 2.]])
        with self.assertRaisesRegex(nflow.RowsError, "x.1..0. is nan") as raised:
            flow.log_prob(x)
        np.testing.assert_array_equal(raised.exception.result[[0, 2]], flow.log_prob(x[[0, 2]]))
        self.assertTrue(np.isnan(raised.exception.result[1]))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            report = flow.fit(np.vstack([x] * 10), epochs=1)
        self.assertEqual(report.bad_rows, 10)
        self.assertEqual([warning.category for warning in caught], [nflow.RowsWarning])
        before = flow.parameters
        with self.assertRaisesRegex(nflow.RowsError, "20 of 20 rows are not finite") as caught:
            flow.fit(np.full((20, 2), np.nan), epochs=1)
        self.assertEqual((caught.exception.result.bad_rows, caught.exception.result.steps), (20, 0))
        np.testing.assert_array_equal(flow.parameters, before)


class Handles(unittest.TestCase):
    def test_closing(self):
        with nflow.Flow.planar(dim=2) as flow:
            self.assertEqual(flow.layer_count, 1)
        flow.close()
        with self.assertRaisesRegex(ValueError, "closed"):
            flow.log_prob([[1., 2.]])

    def test_append_takes_the_part(self):
        flow, part = nflow.Flow.planar(dim=2), nflow.Flow.permutation([1, 0])
        flow.append(part)
        self.assertEqual(flow.layer_count, 2)
        with self.assertRaisesRegex(ValueError, "closed"):
            self.assertIsNone(part.dim)

    def test_any_order(self):
        flow = nflow.Flow.cnf(dim=2, hidden_width=8)
        workspace, gradient, optimizer = nflow.Workspace(flow), nflow.Gradient(flow), nflow.Optimizer(flow, kind="sgd", learning_rate=.1)
        flow.close()
        del flow
        gc.collect()
        for handle in (optimizer, workspace, gradient):
            handle.close()

    def test_callbacks_of_an_allocator_live_as_long_as_its_memory(self):
        libc, held, alive = ctypes.CDLL(None), set(), []
        libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, (ctypes.c_size_t,), (ctypes.c_void_p,)

        def allocator():
            def alloc(_, size):
                pointer = libc.malloc(size)
                held.add(pointer)
                return pointer

            def release(_, pointer):
                held.remove(pointer)
                libc.free(pointer)
            callbacks = (ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)(alloc),
                         ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(release))
            alive.append(weakref.ref(alloc))
            return nflow.Allocator(*(ctypes.cast(one, ctypes.c_void_p) for one in callbacks))
        flow, net = nflow.Flow.planar(dim=2, allocator=allocator()), nflow.Mlp(2, 1, allocator=ctypes.pointer(allocator()))
        optimizer = nflow.Optimizer(nflow.Flow.affine(2), allocator=ctypes.byref(allocator()))
        made = [nflow.Workspace(flow), nflow.Gradient(flow), nflow.Optimizer(flow), flow.clone().clone(), nflow.Gradient(net), optimizer]
        whole = nflow.Flow.affine(2)
        whole.append(flow)
        del flow, net, optimizer
        gc.collect()
        self.assertTrue(all(one() for one in alive))
        for one in made + [whole]:
            one.close()
        self.assertFalse(held)
        del made, whole, one
        gc.collect()
        self.assertFalse(any(one() for one in alive))

    def test_structs_of_other_kinds(self):
        for wrong in ("x", b"x" * 64, 1.5, True, [1], nflow.OptimizerConfig()):
            with self.assertRaisesRegex(TypeError, "allocator: an nflow.Allocator is expected"):
                nflow.Flow.planar(dim=2, allocator=wrong)
            with self.assertRaisesRegex(TypeError, "comm: an nflow.Comm is expected"):
                nflow.Flow.planar(dim=2).fit([[1., 2.]] * 9, comm=wrong)

    def test_bytes(self):
        flow = nflow.Flow.radial(dim=2, layers=2, seed=8)
        data = flow.dumps()
        for kind in (bytes, bytearray, memoryview, np.frombuffer):
            given = kind(data, dtype=np.uint8) if kind is np.frombuffer else kind(data)
            np.testing.assert_array_equal(nflow.Flow.loads(given).parameters, flow.parameters)
        with self.assertRaisesRegex(nflow.FormatError, "0 bytes"):
            nflow.Flow.loads(b"")
        with self.assertRaises(TypeError):
            nflow.Flow.loads("text")
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "m.safetensors")
            flow.save(path)
            with open(path, "rb") as model:
                self.assertEqual(model.read(), data)

    def test_copies(self):
        flow = nflow.Flow.realnvp(dim=2, couplings=2, hidden_width=8, seed=4)
        flow.set_base_normal([1, 2], [3, 4])
        for again in (copy.copy, copy.deepcopy, lambda flow: pickle.loads(pickle.dumps(flow))):
            with again(flow) as other:
                self.assertNotEqual(other.handle, flow.handle)
                self.assertEqual(other.dumps(), flow.dumps())
        net = nflow.Mlp(1, 1)
        for owner in (nflow.Workspace(flow), nflow.Gradient(flow), nflow.Optimizer(flow), net):
            for again in (copy.copy, copy.deepcopy, pickle.dumps):
                with self.assertRaisesRegex(TypeError, "neither copied nor pickled"):
                    again(owner)

    def test_kinds_of_handles(self):
        flow = nflow.Flow.planar(dim=2)
        with self.assertRaisesRegex(TypeError, "workspace: a Workspace"):
            flow.log_prob([[1., 2.]], workspace=flow)
        with nflow.Workspace(flow) as workspace:
            for make in (nflow.Workspace, nflow.Gradient, nflow.Optimizer):
                with self.assertRaisesRegex(TypeError, "of: a Flow"):
                    make(workspace)


class Stop(Exception):
    pass


def stop(*_):
    raise Stop


class Callbacks(unittest.TestCase):
    x = np.random.default_rng(7).normal(size=(200, 2))

    def test_progress(self):
        flow = nflow.Flow.planar(dim=2, layers=2, seed=1)
        report = flow.fit(self.x, epochs=20, progress=lambda progress: progress.epoch == 3)
        self.assertEqual((report.epochs_run, report.stop_reason), (3, nflow.StopReason.CALLBACK))
        with self.assertRaises(Stop):
            flow.fit(self.x, epochs=2, progress=stop)
        with self.assertRaises(Stop):
            flow.fit_reverse_kl(lambda x: (-.5 * (x * x).sum(1), -x), progress=stop, steps=10)

    def test_what_is_no_number_is_named(self):
        flow = nflow.Flow.cnf(dim=2, hidden_width=8, seed=2)
        with nflow.Optimizer(flow) as optimizer:
            for value in (None, [1.], "1", False, 1j):
                for name, call in (("rtol", lambda: flow.set_solver(rtol=value)), ("atol", lambda: flow.set_solver(atol=value)),
                                   ("learning_rate", lambda: optimizer.set_learning_rate(value)),
                                   ("t0", lambda: nflow.ode_solve(lambda t, y, row: y, [[1.]], value, 1)),
                                   ("t1", lambda: nflow.ode_solve(lambda t, y, row: y, [[1.]], 0, value)),
                                   ("rtol", lambda: nflow.Flow.cnf(dim=2, rtol=value))):
                    with self.assertRaisesRegex(TypeError, "%s is .*, expected a number" % name):
                        call()

    def test_a_forked_child_waits_for_no_thread(self):
        """What another thread reads just then, it reads in the parent alone."""
        large, other, done = nflow.Flow.realnvp(dim=20, hidden_width=512, seed=1), nflow.Flow.planar(dim=2, seed=1), threading.Event()

        def read():
            while not done.is_set():
                large.parameters
        reader = threading.Thread(target=read)
        reader.start()
        try:
            for _ in range(5):
                child = os.fork()
                if child == 0:
                    good = False
                    signal.alarm(10)
                    try:
                        good = other.dim == 2 and np.isfinite(other.log_prob(np.zeros((1, 2)))).all()
                    finally:
                        os._exit(0 if good else 1)
                self.assertEqual(os.waitpid(child, 0)[1], 0)
        finally:
            done.set()
            reader.join()

    def test_standardize_may_be_said_in_words(self):
        words = {}
        for value in (0, -1, True, False, np.True_, np.False_):
            flow = nflow.Flow.realnvp(dim=2, couplings=2, hidden_width=8, actnorm=1, seed=3)
            flow.fit(self.x * 50 + 7, epochs=1, standardize=value)
            words.setdefault(flow.dumps(), []).append(str(value))
        self.assertEqual(list(words.values()), [["0", "True", "True"], ["-1", "False", "False"]])

    def test_false_is_no_number(self):
        """0 is the default, so that it would switch on what it denies."""
        flow = nflow.Flow.planar(dim=2, layers=2, seed=1)
        for member in ("noise", "ema_decay", "contamination", "validation_fraction", "patience", "seed"):
            for value in (False, True, "0", np.False_):
                with self.assertRaisesRegex(TypeError, re.escape("%s is %r, expected a" % (member, value))):
                    flow.fit(self.x, epochs=1, **{member: value})
        flow.fit(self.x, epochs=1, noise=np.float32(-1), ema_decay=-1, patience=None, validation_fraction=fractions.Fraction(1, 4))

    def test_rows_by_callback(self):
        context = self.x[:, :1] ** 2
        one, other = (nflow.Flow.realnvp(dim=2, context_dim=1, couplings=2, hidden_width=8, seed=3) for _ in range(2))
        one.fit(self.x, context=context, epochs=2, seed=5)
        other.fit(read=lambda row: (self.x[row], context[row]), rows=len(self.x), epochs=2, seed=5)
        np.testing.assert_array_equal(one.parameters, other.parameters)
        with self.assertRaises(Stop):
            other.fit(read=stop, rows=5, epochs=1)
        with self.assertRaisesRegex(ValueError, "no context"):
            other.fit(read=lambda row: self.x[row], rows=5, epochs=1)
        for wrong in (context, context.tolist()):
            with self.assertRaisesRegex(ValueError, "read gives the context"):
                other.fit(read=lambda row: (self.x[row], context[row]), rows=len(self.x), context=wrong, epochs=1)
        for wrong in (dict(), dict(rows=5), dict(x=self.x, read=stop, rows=5)):
            with self.assertRaisesRegex(ValueError, "x, or read and rows"):
                other.fit(**wrong)

    def test_exceptions_of_targets(self):
        flow = nflow.Flow.planar(dim=2, layers=2, seed=1)
        before = flow.parameters
        with self.assertRaises(Stop):
            flow.fit_reverse_kl(stop, steps=10)
        with nflow.Gradient(flow) as gradient, self.assertRaises(Stop):
            flow.grad_reverse_kl(10, nflow.Rng(1), stop, gradient)
        with self.assertRaises(Stop):
            nflow.ode_solve(stop, [[1.]], 0, 1)
        with self.assertRaisesRegex(ValueError, "broadcast"):
            flow.fit_reverse_kl(lambda x: (np.zeros(3), -x), steps=10)
        for wrong in (lambda x: (0., -x), lambda x: (np.zeros(len(x)), -x[:1])):
            with self.assertRaisesRegex(ValueError, "broadcast"):
                flow.fit_reverse_kl(wrong, steps=10)
        for read in (lambda row: self.x[row][:1], lambda row: self.x[0], lambda row: None):
            with self.assertRaisesRegex(ValueError, "x of read"):
                flow.fit(read=read, rows=50, epochs=1)
        with self.assertRaisesRegex(ValueError, "f has shape"):
            nflow.ode_solve(lambda t, y, row: [1.], np.ones((3, 1)), 0, 1)
        np.testing.assert_array_equal(flow.parameters, before)

    def test_exceptions_let_go_of_the_call(self):
        """The flow and the rows of a call that a callback ended with an exception are freed with their last name."""
        calls = [lambda flow, x: flow.fit(x, epochs=1, progress=stop), lambda flow, x: flow.fit(read=stop, rows=len(x), epochs=1),
                 lambda flow, x: flow.fit_reverse_kl(stop, steps=1), lambda flow, x: flow.diagnose(x, target=stop, samples=50),
                 lambda flow, x: flow.grad_reverse_kl(3, nflow.Rng(), stop, nflow.Gradient(flow)),
                 lambda flow, x: nflow.ode_solve(lambda *_: (stop(flow)), x, 0, 1)]
        for call in calls:
            flow, x = nflow.Flow.planar(dim=2), self.x.copy()
            lives = [weakref.ref(flow), weakref.ref(x)]
            try:  # assertRaises would clear the frames that the exception leads to
                call(flow, x)
                self.fail("no exception came")
            except Stop:
                pass
            del flow, x
            gc.collect()
            self.assertEqual([life() for life in lives], [None, None])

    def test_signals(self):
        """What a handler raises while C computes ends the call at its next callback, and is not lost on the way into one."""
        flow = nflow.Flow.realnvp(dim=2, seed=8)
        before = signal.signal(signal.SIGALRM, signal.default_int_handler)
        calls = [lambda: flow.fit(self.x, epochs=3000), lambda: flow.fit(self.x, epochs=3000, progress=lambda _: False),
                 lambda: flow.fit_reverse_kl(lambda x: (-.5 * (x * x).sum(1), -x), steps=3000)]
        try:
            for call in calls * 3:
                signal.setitimer(signal.ITIMER_REAL, .05)
                with self.assertRaises(KeyboardInterrupt):
                    call()
                self.assertIs(signal.getsignal(signal.SIGALRM), signal.default_int_handler)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, before)

    def test_handlers_that_a_callback_sets_stay(self):
        flow, before = nflow.Flow.planar(dim=2, layers=2, seed=1), signal.signal(signal.SIGALRM, signal.default_int_handler)
        try:
            flow.fit(self.x, epochs=2, progress=lambda _: signal.signal(signal.SIGALRM, stop) is None)
            self.assertIs(signal.getsignal(signal.SIGALRM), stop)
        finally:
            signal.signal(signal.SIGALRM, before)

    def test_arguments_are_the_callbacks_own(self):
        """One that keeps its arguments, and changes them in place, gives the results of one that does not."""
        kept = []

        def meddle(answer, *arrays):
            kept.extend(arrays)
            for array in arrays:
                array[...] = 7
            return answer

        def target(x):
            return -.5 * ((x - 1) ** 2).sum(1), 1 - x

        def equation(t, y, row):
            return -y * t[:, None]
        one, other = (nflow.Flow.planar(dim=2, layers=2, seed=1) for _ in range(2))
        one.fit_reverse_kl(target, steps=20)
        other.fit_reverse_kl(lambda x: meddle(target(x), x), steps=20)
        np.testing.assert_array_equal(one.parameters, other.parameters)
        one.fit(self.x, epochs=2)
        other.fit(read=lambda row: meddle(self.x[row], row), rows=len(self.x), epochs=2)
        np.testing.assert_array_equal(one.parameters, other.parameters)
        y = np.ones((3, 1))
        meddled = nflow.ode_solve(lambda *arguments: meddle(equation(*arguments), *arguments), y, 0, 1)
        np.testing.assert_array_equal(meddled, nflow.ode_solve(equation, y, 0, 1))
        for array in kept:
            self.assertTrue((array == 7).all())

    def test_what_a_call_has_stays(self):
        """Neither its callbacks nor other threads close or change what C is working on; they may look at it."""
        def target(x):
            return -.5 * (x * x).sum(1), -x

        def refused(attempts):
            for attempt in attempts:
                with self.assertRaisesRegex(RuntimeError, "in use"):
                    attempt()
            refusals.append(len(attempts))
        flow, part = nflow.Flow.planar(dim=2, layers=2, seed=1), nflow.Flow.planar(dim=2)
        workspace, gradient, optimizer = nflow.Workspace(flow), nflow.Gradient(flow), nflow.Optimizer(flow)
        parameters, x, refusals = flow.parameters, self.x[:3], []
        changes = [flow.close, flow.__exit__, lambda: setattr(flow, "parameters", parameters), lambda: flow.fit(self.x, epochs=1),
                   lambda: flow.fit_reverse_kl(target, steps=1), lambda: flow.append(part), lambda: part.append(flow), flow.invert,
                   flow.set_base_normal, lambda: flow.standardize(x), flow.set_solver, lambda: optimizer.step(flow, gradient)]
        uses = [workspace.close, gradient.close, gradient.zero, lambda: flow.log_prob(x, workspace=workspace),
                lambda: flow.grad_nll(x, gradient)]

        def progress(_):
            refused(changes)
            other = threading.Thread(target=refused, args=(changes,))
            other.start()
            other.join()
            self.assertEqual(flow.clone().dumps(), flow.dumps())
            flow.grad_nll(x, gradient, workspace=workspace)
            return True
        flow.fit(self.x, epochs=2, progress=progress)
        flow.fit_reverse_kl(target, steps=2, progress=progress)
        flow.grad_reverse_kl(3, nflow.Rng(), lambda x: (refused(changes + uses), target(x))[1], gradient, workspace=workspace)
        self.assertEqual(refusals, [len(changes)] * 4 + [len(changes + uses)])
        with self.assertRaisesRegex(RuntimeError, "the Flow is in use"):
            flow.fit(self.x, epochs=2, progress=lambda _: flow.close())
        flow.parameters = parameters
        flow.append(part)
        with self.assertRaisesRegex(nflow.ArgumentError, "itself"):
            flow.append(flow)
        self.assertEqual(flow.layer_count, 3)
        for one in (optimizer, workspace, gradient, flow):
            one.close()

    def test_other_threads_do_not_read_what_changes(self):
        """A flow that is fitted is half of one step and half of the next; what no step changes may be asked for."""
        flow, net, done = nflow.Flow.planar(dim=2, layers=2, seed=1), nflow.Mlp(2, 1), threading.Event()
        x, rng, parameters, read = self.x[:3], nflow.Rng(), flow.parameters, []
        reads = [lambda: flow.log_prob(x), lambda: flow.sample(3, rng), lambda: flow.parameters, flow.clone, flow.dumps, flow.diagnose,
                 lambda: copy.copy(flow), lambda: nflow.Workspace(flow)]

        def look():
            for attempt in reads:
                with self.assertRaisesRegex(RuntimeError, "the Flow is being changed by a call in another thread"):
                    attempt()
            self.assertEqual((flow.dim, flow.layer_count, len(flow.tensors(parameters))), (2, 2, 6))
            self.assertIn("dim 2", repr(flow))
            self.assertEqual(net.forward(x).shape, (3, 1))
            done.set()

        def progress(_):
            other = threading.Thread(target=look)
            other.start()
            other.join()
            read.append(flow.log_prob(x))
            return True
        flow.fit(self.x, epochs=2, progress=progress)
        self.assertTrue(done.is_set())
        self.assertTrue(np.isfinite(read[0]).all())
        self.assertEqual(flow.clone().dumps(), flow.dumps())

    def test_looking_holds_back_closing(self):
        """Another thread frees no handle between the moment it is taken and that when C has read it."""
        flow, dim, closers = nflow.Flow.planar(dim=2), nflow.lib.nf_flow_dim, []

        def slow(handle):
            closers.append(threading.Thread(target=flow.close))
            closers[0].start()
            closers[0].join(.05)
            self.assertIsNotNone(flow._handle)
            return dim(handle)
        with unittest.mock.patch.object(nflow.lib, "nf_flow_dim", slow):
            self.assertEqual(flow.dim, 2)
        closers[0].join()
        self.assertEqual(repr(flow), "<closed Flow>")

    def test_counted_parameters_are_those_that_are_moved(self):
        """Another thread appends no layers between the count and the numbers."""
        flow, at, appending = nflow.Flow.planar(dim=2), nflow._at, []
        parameters = flow.parameters

        def slow(array):
            appending.append(threading.Thread(target=flow.append, args=(nflow.Flow.planar(dim=2),)))
            appending[-1].start()
            appending[-1].join(.05)
            self.assertEqual(flow.layer_count, layers)
            return at(array)
        for layers, call in ((1, lambda: flow.parameters), (2, lambda: setattr(flow, "parameters", np.append(parameters, parameters)))):
            with unittest.mock.patch.object(nflow, "_at", slow):
                call()
            appending[-1].join()
        self.assertEqual(flow.layer_count, 3)

    def test_training_by_hand(self):
        flow = nflow.Flow.realnvp(dim=2, couplings=2, hidden_width=8, seed=3)
        with nflow.Gradient(flow) as gradient, nflow.Workspace(flow) as workspace, \
                nflow.Optimizer(flow, kind="adam", learning_rate=1e-2) as optimizer:
            losses = []
            for _ in range(30):
                gradient.zero()
                losses.append(flow.grad_nll(self.x * 3, gradient, workspace=workspace))
                optimizer.step(flow, gradient)
            self.assertLess(losses[-1], losses[0])
            gradient.values = np.full(flow.parameter_count, np.nan)
            with self.assertRaises(nflow.DivergedError):
                optimizer.step(flow, gradient)

    def test_net_by_hand(self):
        net = nflow.Mlp(2, 1, hidden_width=8, seed=1)
        with nflow.Gradient(net) as gradient, nflow.Optimizer(net, learning_rate=1e-2) as optimizer:
            for step in range(200):
                gradient.zero()
                error = net.forward(self.x) - self.x[:, :1] * self.x[:, 1:]
                if step == 0:
                    first = np.mean(error ** 2)
                net.vjp(self.x, error / len(error), gradient)
                optimizer.step(net, gradient)
        self.assertLess(np.mean(error ** 2), first / 2)

    def test_continuous(self):
        flow = nflow.Flow.cnf(dim=2, hidden_width=8, seed=2, rtol=1e-8, atol=1e-8)
        path = flow.trajectory(self.x[:5], [0, .5, 1])
        self.assertEqual(path.shape, (3, 5, 2))
        np.testing.assert_array_equal(path[2], flow.forward(self.x[:5])[0])
        with nflow.Gradient(flow) as gradient:
            self.assertGreater(flow.grad_flow_matching(self.x, nflow.Rng(3), gradient, pairing="optimal"), 0)
            self.assertGreater(np.abs(gradient.values).max(), 0)

    def test_equations(self):
        y, path = nflow.ode_solve(lambda t, y, row: np.stack([y[:, 1], -y[:, 0]], 1), [[1., 0.]], 0, 1, times=[.25, 1.], rtol=1e-10)
        np.testing.assert_allclose(y, [[np.cos(1), -np.sin(1)]], rtol=0, atol=1e-8)
        np.testing.assert_allclose(path[0], [[np.cos(.25), -np.sin(.25)]], rtol=0, atol=1e-6)

    def test_diagnosis(self):
        flow = nflow.Flow.planar(dim=2, layers=2, seed=6)
        report = flow.diagnose(target=lambda x: -.5 * (x * x).sum(1), samples=500)
        self.assertEqual(report.log_det.verdict, nflow.Verdict.PASSED)
        self.assertGreater(report.effective_sample_size.value, 0)
        self.assertIn("round trip", nflow.diagnosis_text(report))
        with self.assertRaisesRegex(TypeError, "a DiagnoseReport is expected"):
            nflow.diagnosis_text(nflow.FitReport())


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]])
