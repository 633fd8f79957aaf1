"""The operator inside the rest of torch: autocast, compile, fake tensors, autograd, streams."""

from __future__ import annotations

import threading

import mamba_scan
import pytest
import torch
from problems import assert_matches_reference, make_problem
from torch._subclasses.fake_tensor import FakeTensorMode

OPERATOR_ORDER = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")  # and cu_seqlens
FEATURES = {
    "reverse": {"reverse": True},
    "packed": {"sequences": 4},
    "complex": {"is_complex": True},
    "all": {"reverse": True, "sequences": 4, "is_complex": True},
}
OPERATOR_TESTS = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")


def operator_arguments(problem, return_final_state):
    """Complex numbers as the operator takes them: real, with an axis (re, im) behind the others."""
    tensors = [problem.get(name) for name in (*OPERATOR_ORDER, "cu_seqlens")]
    tensors = [torch.view_as_real(t) if t is not None and t.is_complex() else t for t in tensors]
    flags = (problem.get("delta_softplus", False), problem["layout"] == "bdl", return_final_state)
    return *tensors, *flags, problem.get("reverse", False), problem.get("chunk_invariant", False)


@pytest.mark.parametrize("return_final_state", [False, True])
@pytest.mark.parametrize("layout", ["bld", "bdl"])
@pytest.mark.parametrize("full", [False, True])
def test_opcheck(device, layout, full, return_final_state):
    problem = make_problem(2, 9, 8, 4, groups=2, layout=layout, full=full, device=device)
    arguments = operator_arguments(problem, return_final_state)
    torch.library.opcheck(torch.ops.mamba_scan.selective_scan_forward, arguments, test_utils=OPERATOR_TESTS)


def test_opcheck_with_transposed_input(device):
    problem = make_problem(2, 9, 8, 4, device=device)
    problem["u"] = problem["u"].transpose(1, 2).contiguous().transpose(1, 2)
    arguments = operator_arguments(problem, True)
    torch.library.opcheck(torch.ops.mamba_scan.selective_scan_forward, arguments, test_utils=OPERATOR_TESTS)


@pytest.mark.parametrize("layout", ["bld", "bdl"])
@pytest.mark.parametrize("features", FEATURES)
def test_opcheck_of_features(device, features, layout):
    problem = make_problem(1, 9, 8, 4, layout=layout, **FEATURES[features], device=device)
    arguments = operator_arguments(problem, True)
    torch.library.opcheck(torch.ops.mamba_scan.selective_scan_forward, arguments, test_utils=OPERATOR_TESTS)


def test_opcheck_of_an_invariant_scan(device):
    problem = make_problem(1, 9, 8, 4, device=device) | {"chunk_invariant": True}
    arguments = operator_arguments(problem, True)
    torch.library.opcheck(torch.ops.mamba_scan.selective_scan_forward, arguments, test_utils=OPERATOR_TESTS)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("features", FEATURES)
def test_compile_features_as_one_graph(device, features, pairs, dynamic):
    torch._dynamo.reset()

    def model(**arguments):
        y, state = mamba_scan.selective_scan(**arguments, return_final_state=True)
        return y + 1, state * 2

    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for seqlen in (9, 14):
        problem = make_problem(1, seqlen, 8, 4, pairs=pairs, **FEATURES[features], device=device)
        for got, expected in zip(compiled(**problem), model(**problem), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    torch._dynamo.reset()


def test_a_compiled_call_refuses_bad_sequences():
    """The values of cu_seqlens are not known when the graph is traced; on the CPU the operator looks at them."""
    torch._dynamo.reset()
    compiled = torch.compile(mamba_scan.selective_scan, fullgraph=True, backend="aot_eager")
    problem = make_problem(1, 9, 8, 4, sequences=2)
    compiled(**problem)
    problem["cu_seqlens"] = torch.tensor([0, 9, 5], dtype=torch.int32)
    with pytest.raises(RuntimeError, match=r"cu_seqlens\[2\]: got 5, needed at least 9"):
        compiled(**problem)
    torch._dynamo.reset()


@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_as_one_graph(device, dynamic):
    torch._dynamo.reset()

    def model(u, delta, A, B, C, D):
        y, state = mamba_scan.selective_scan(
            u * 2, delta.exp(), A, B, C, D, delta_softplus=True, return_final_state=True
        )
        return y + 1, state

    names = ("u", "delta", "A", "B", "C", "D")
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for seqlen in (9, 14):
        problem = make_problem(2, seqlen, 8, 4, device=device)
        problem["A"] = problem["A"].half()
        arguments = [problem[name] for name in names]
        for got, expected in zip(compiled(*arguments), model(*arguments), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    torch._dynamo.reset()


def test_fake_tensors_have_the_shapes_of_real_ones(device):
    problem = make_problem(2, 9, 8, 4, layout="bdl", dtype=torch.bfloat16, device=device)
    real = mamba_scan.selective_scan(**problem, return_final_state=True)
    with FakeTensorMode() as mode:
        faked = {k: mode.from_tensor(v) if isinstance(v, torch.Tensor) else v for k, v in problem.items()}
        fake = mamba_scan.selective_scan(**faked, return_final_state=True)
        with pytest.raises(ValueError, match="delta has shape"):
            mamba_scan.selective_scan(**faked | {"delta": faked["delta"][:1]})
    for got, expected in zip(fake, real, strict=True):
        assert (got.shape, got.stride(), got.dtype) == (expected.shape, expected.stride(), expected.dtype)
        assert got.device == expected.device


@pytest.mark.parametrize("features", FEATURES)
def test_fake_tensors_of_features_have_the_shapes_of_real_ones(device, features):
    problem = make_problem(1, 9, 8, 4, layout="bdl", **FEATURES[features], device=device)
    real = mamba_scan.selective_scan(**problem, return_final_state=True)
    with FakeTensorMode() as mode:
        faked = {k: mode.from_tensor(v) if isinstance(v, torch.Tensor) else v for k, v in problem.items()}
        fake = mamba_scan.selective_scan(**faked, return_final_state=True)
    for got, expected in zip(fake, real, strict=True):
        assert (got.shape, got.stride(), got.dtype) == (expected.shape, expected.stride(), expected.dtype)


def test_meta_tensors():
    problem = make_problem(2, 9, 8, 4, device="meta")
    y, state = mamba_scan.selective_scan(**problem, return_final_state=True)
    assert y.shape == (2, 9, 8)
    assert state.shape == (2, 8, 4)
    assert y.is_meta
    with pytest.raises(ValueError, match="delta has dtype float16"):
        mamba_scan.selective_scan(**problem | {"delta": problem["delta"].half()})


def test_autocast_runs_in_the_dtype_of_u(device):
    problem = make_problem(device=device)
    problem["u"] = problem["u"].bfloat16()
    with pytest.raises(ValueError, match="delta has dtype float32; needs bfloat16, the dtype of u"):
        mamba_scan.selective_scan(**problem)
    with torch.autocast(device, torch.bfloat16):
        y, state = mamba_scan.selective_scan(**problem, return_final_state=True)
    cast = {k: problem[k].bfloat16() for k in ("delta", "B", "C", "z")}
    assert_matches_reference(problem | cast, y, state)


@pytest.mark.parametrize("pairs", [False, True])
def test_autocast_of_complex_projections(device, pairs):
    problem = make_problem(1, is_complex=True, pairs=pairs, sequences=3, reverse=True, device=device)
    problem["u"] = problem["u"].bfloat16()
    with pytest.raises(ValueError, match="delta has dtype float32; needs bfloat16, the dtype of u"):
        mamba_scan.selective_scan(**problem)
    with torch.autocast(device, torch.bfloat16):
        y, state = mamba_scan.selective_scan(**problem, return_final_state=True)
    cast = {k: problem[k].bfloat16() for k in ("delta", "z")}
    for name in "BC":
        values = problem[name] if pairs else torch.view_as_real(problem[name]).flatten(-2)
        cast[name] = values.bfloat16()
    assert_matches_reference(problem | cast, y, state)


def test_autocast_of_another_device_changes_nothing(cuda):
    problem = make_problem()
    problem["u"] = problem["u"].bfloat16()
    with torch.autocast(cuda), pytest.raises(ValueError, match="delta has dtype float32"):
        mamba_scan.selective_scan(**problem)


@pytest.mark.parametrize("name", OPERATOR_ORDER)
def test_forward_works_where_gradients_are_recorded_and_backward_says_it_is_missing(device, name):
    problem = make_problem(device=device)
    expected = mamba_scan.selective_scan(**problem)
    problem[name] = problem[name].requires_grad_()
    y = mamba_scan.selective_scan(**problem)
    assert y.requires_grad
    assert torch.equal(y, expected)
    with pytest.raises(NotImplementedError, match="no backward pass in this version"):
        y.sum().backward()


@pytest.mark.parametrize("name", OPERATOR_ORDER)
def test_tangents_of_forward_mode_are_refused_and_not_lost(device, name):
    problem = make_problem(device=device)
    primal = problem.pop(name)

    def scan(value):
        return mamba_scan.selective_scan(**problem, **{name: value})

    with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
        torch.func.jvp(scan, (primal,), (torch.ones_like(primal),))
    with torch.autograd.forward_ad.dual_level():
        scan(primal)  # without a tangent
        dual = torch.autograd.forward_ad.make_dual(primal, torch.ones_like(primal))
        with pytest.raises(NotImplementedError, match="no forward-mode derivative"):
            scan(dual)


def test_what_is_no_tensor_is_named_beside_tangents_too():
    with torch.autograd.forward_ad.dual_level(), pytest.raises(ValueError, match="u has type list; needs a torch"):
        mamba_scan.selective_scan(**make_problem() | {"u": [1.0]})


@pytest.mark.parametrize("transform", [torch.func.grad, torch.func.jacrev, torch.func.vjp])
def test_transforms_that_differentiate_say_that_it_is_missing(device, transform):
    problem = make_problem(device=device)
    u = problem.pop("u")

    def scan(u):
        return mamba_scan.selective_scan(u, **problem).sum()

    with pytest.raises(NotImplementedError, match="no backward pass in this version"):
        transform(scan, u) if transform is torch.func.vjp else transform(scan)(u)


@pytest.mark.parametrize("name", ["A", "B", "C", "initial_state"])
def test_complex_arguments_record_gradients_too(device, name):
    problem = make_problem(is_complex=True, device=device)
    expected = mamba_scan.selective_scan(**problem)
    problem[name] = problem[name].requires_grad_()
    y, state = mamba_scan.selective_scan(**problem, return_final_state=True)
    assert y.requires_grad
    assert torch.equal(y, expected)
    for output in (y.sum(), state.real.sum()):
        with pytest.raises(NotImplementedError, match="no backward pass in this version"):
            output.backward()


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients_nothing_is_recorded(device, mode):
    problem = make_problem(device=device)
    problem["A"].requires_grad_()
    with mode():
        y = mamba_scan.selective_scan(**problem)
    assert not y.requires_grad
    assert_matches_reference(problem, y.clone())


def test_calls_from_several_threads(device):
    problems = [make_problem(2, 64, 32, seed=seed, device=device) for seed in range(4)]
    expected = [mamba_scan.selective_scan(**problem) for problem in problems]
    wrong = []

    def work(index):
        for _ in range(10):
            if not torch.equal(mamba_scan.selective_scan(**problems[index]), expected[index]):
                wrong.append(index)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(problems))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_stream_of_the_callers(cuda):
    """The scan waits for what its stream has queued, and for nothing else."""
    problem = make_problem(4, 512, 256, device=cuda)
    expected = mamba_scan.selective_scan(**problem)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)  # long enough that a scan on another stream would read u too early
        u = problem["u"] * 1.0
        y = mamba_scan.selective_scan(**problem | {"u": u})
    stream.synchronize()
    assert torch.equal(y, expected)


def test_capture_in_a_cuda_graph(cuda):
    problem = make_problem(2, 128, 64, device=cuda)
    expected = mamba_scan.selective_scan(**problem)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = mamba_scan.selective_scan(**problem)
    y.zero_()
    graph.replay()
    torch.cuda.synchronize()
    assert torch.equal(y, expected)


def test_the_second_gpu(cuda):
    if torch.cuda.device_count() < 2:
        pytest.skip("one GPU only")
    problem = make_problem(device="cuda:1")
    assert_matches_reference(problem, *mamba_scan.selective_scan(**problem, return_final_state=True))
