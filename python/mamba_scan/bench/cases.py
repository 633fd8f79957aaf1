"""Which scans are measured: the presets, and single shapes."""

import random
from dataclasses import dataclass, replace

from .. import roof
from ..demo import DTYPES

LAYOUTS = ("bld", "bdl")
# d_model of the published Mamba models; the scan has 2 * d_model channels.
MAMBA_MODELS = {"130m": 768, "370m": 1024, "790m": 1536, "1.4b": 2048, "2.8b": 2560}


@dataclass(frozen=True)
class Case:
    """One scan to measure; sizes and options as in :func:`mamba_scan.selective_scan`.

    Attributes
    ----------
    batch, seqlen, dim, dstate, groups : int
        Sizes.
    dtype : str
        Of the activations: ``"float32"``, ``"float16"`` or ``"bfloat16"``.
    layout : str
        ``"bld"`` or ``"bdl"``.
    z, D, softplus, delta_bias, initial_state, final_state, reverse, chunk_invariant : bool
        Which options the scan has.
    constant : str
        Letters of the projections that do not vary in time: ``""``, ``"B"``, ``"C"`` or ``"BC"``.
    label : str
        Where the shape comes from, e.g. a stage of a model.
    """

    batch: int
    seqlen: int
    dim: int
    dstate: int = 16
    groups: int = 1
    dtype: str = "float16"
    layout: str = "bld"
    z: bool = False
    D: bool = False
    softplus: bool = False
    delta_bias: bool = False
    initial_state: bool = False
    final_state: bool = False
    reverse: bool = False
    chunk_invariant: bool = False
    constant: str = ""
    label: str = ""

    def full(self) -> "Case":
        """Return the same scan with gate, skip connection, bias and softplus, as Mamba blocks call it."""
        return replace(self, z=True, D=True, softplus=True, delta_bias=True)

    @property
    def shape(self) -> str:
        """Sizes as a person writes them."""
        groups = f", g {self.groups}" if self.groups > 1 else ""
        return f"{self.batch}, {self.seqlen}, {self.dim}, {self.dstate}{groups}"

    @property
    def options(self) -> str:
        """What the scan has beyond u, delta, A, B and C."""
        words = [name for name in ("z", "D", "softplus") if getattr(self, name)]
        words += ["bias"] * self.delta_bias + ["h0"] * self.initial_state + ["hT"] * self.final_state
        words += ["reverse"] * self.reverse + ["invariant"] * self.chunk_invariant
        words += [f"constant {letter}" for letter in self.constant]
        return " ".join(words)

    def work(self) -> roof.Work:
        """Return the least work of this scan."""
        words = [name for name in ("z", "D", "delta_bias", "initial_state", "final_state") if getattr(self, name)]
        words += [f"constant_{letter}" for letter in self.constant]
        sizes = (self.batch, self.seqlen, self.dim, self.dstate)
        return roof.work(*sizes, DTYPES[self.dtype], groups=self.groups, features=" ".join(words))


def _table(gpu: bool) -> list[Case]:
    """Return the shapes by which the project is judged: model sizes, half and single precision, options, states."""
    if not gpu:
        base = [Case(*sizes) for sizes in ((4, 512, 768), (1, 2048, 1536), (1, 16384, 256), (1, 1024, 256))]
        states = [Case(1, 512, 1024, dstate) for dstate in (1, 4, 8, 32, 64, 128, 256)]
        return [*base, *(case.full() for case in base), *states]
    base = [
        Case(64, 2048, 1536),
        Case(8, 2048, 5120),
        Case(1, 131072, 2048),
        Case(1, 16384, 2048),
        Case(1, 16384, 768),
        Case(1, 1024, 2048),
        Case(1, 1024, 256),
    ]
    return [
        *base,
        *(replace(case, layout="bdl") for case in base),
        *(replace(case, dtype="float32") for case in base),
        *(replace(case, z=True, softplus=True, delta_bias=True) for case in base),
        *(Case(8, 2048, 2048, dstate) for dstate in (1, 4, 8, 16, 32, 64, 128, 256)),
        Case(1, 1638400, 2048),
        Case(1, 131072, 2048, chunk_invariant=True),
    ]


def _mamba(model: str, gpu: bool) -> list[Case]:
    """Return prompts and training batches of a published model, with everything a Mamba block passes.

    A block has the sequence last. Prompts are of any length, which leaves rows of 16 bits unaligned.
    """
    dim = 2 * MAMBA_MODELS[model]
    on_gpu = ((1, 1001), (1, 1024), (1, 8192), (1, 65536), (8, 2047), (8, 2048), (32, 2048))
    sizes = on_gpu if gpu else ((1, 251), (1, 256), (1, 1024), (4, 512))
    return [Case(*size, dim, dtype="bfloat16", layout="bdl", label=f"mamba-{model}").full() for size in sizes]


def _vision(gpu: bool) -> list[Case]:
    """Return the scans of VMamba (four directions as groups of one scan) and Vim, which have the sequence last."""
    batch = 64 if gpu else 1
    stages = ((3136, 96), (784, 192), (196, 384), (49, 768))
    cases = []
    for label, ratio, dstate in (("VMamba-T, v0", 2, 16), ("VMamba-T, v2", 1, 1)):
        for seqlen, dim in stages:
            cases.append(
                Case(batch, seqlen, 4 * ratio * dim, dstate, 4, D=True, softplus=True, delta_bias=True, label=label)
            )
    for label, dim in (("Vim-Ti", 192), ("Vim-S", 384), ("Vim-B", 768)):
        cases.append(Case(2 * batch, 197, 2 * dim, label=label).full())
    return [replace(case, layout="bdl") for case in cases]


def _stream(gpu: bool) -> list[Case]:
    lengths, dim = ((131072, 524288, 1638400), 2048) if gpu else ((8192, 32768), 256)
    return [Case(1, seqlen, dim) for seqlen in lengths]


@dataclass(frozen=True)
class Bounds:
    """How large a random scan may be: bytes and exponentials of :class:`mamba_scan.roof.Work`."""

    bytes: int
    exps: int


GPU_BOUNDS = Bounds(4 << 30, 200 * 10**9)
CPU_BOUNDS = Bounds(256 << 20, 200 * 10**6)


def random_cases(count: int, seed: int, bounds: Bounds) -> list[Case]:
    """Draw scans of any kind: sizes log-uniform and mostly odd, every dtype, layout and option.

    Parameters
    ----------
    count : int
        How many.
    seed : int
        The same seed gives the same scans.
    bounds : Bounds
        Larger ones are drawn anew.
    """
    draw = random.Random(seed)

    def between(low: int, high: int) -> int:
        return min(high, int(low * (high / low) ** draw.random() + 0.5))

    def maybe() -> bool:
        return draw.random() < 0.5

    cases: list[Case] = []
    while len(cases) < count:
        groups = draw.choice((1, 1, 1, 2, 4))
        dim = max(1, between(64, 8192) // groups) * groups
        case = Case(between(1, 64), between(100, 200_000), dim, between(1, 256), groups, label=f"random {len(cases)}")
        biased = maybe()
        case = replace(
            case,
            dtype=draw.choice(tuple(DTYPES)),
            layout=draw.choice(LAYOUTS),
            z=maybe(),
            D=maybe(),
            softplus=biased,
            delta_bias=biased,
            initial_state=maybe(),
            final_state=maybe(),
            constant=draw.choice(("", "", "", "B", "C")) if groups == 1 else "",
        )
        work = case.work()
        if work.bytes <= bounds.bytes and work.exps <= bounds.exps:
            cases.append(case)
    return cases


PRESETS = ("table", *(f"mamba-{model}" for model in MAMBA_MODELS), "vision", "stream", "random")


def preset_cases(name: str, gpu: bool, seed: int = 0, count: int = 20) -> list[Case]:
    """Return the scans of a preset.

    Parameters
    ----------
    name : str
        One of :data:`PRESETS`.
    gpu : bool
        Whether they will run on a GPU; a CPU gets smaller ones.
    seed, count : int
        Of the preset ``random``.

    Raises
    ------
    ValueError
        No such preset.
    """
    if name == "table":
        return _table(gpu)
    if name == "vision":
        return _vision(gpu)
    if name == "stream":
        return _stream(gpu)
    if name == "random":
        return random_cases(count, seed, GPU_BOUNDS if gpu else CPU_BOUNDS)
    model = name.removeprefix("mamba-")
    if model == name or model not in MAMBA_MODELS:
        raise ValueError(f"bench: preset is {name!r}; needs one of {', '.join(PRESETS)}")
    return _mamba(model, gpu)


def parse_shape(text: str) -> Case:
    """Read ``batch,seqlen,dim[,dstate[,groups]]``.

    Raises
    ------
    ValueError
        Not three to five numbers, one of them below 1, or groups that do not divide dim.
    """
    try:
        sizes = [int(word) for word in text.split(",")]
    except ValueError:
        sizes = []
    if not 3 <= len(sizes) <= 5 or min(sizes) < 1:
        raise ValueError(f"bench: --shape is {text!r}; needs batch,seqlen,dim[,dstate[,groups]], each at least 1")
    case = Case(*sizes)
    if case.dim % case.groups:
        raise ValueError(f"bench: --shape is {text!r}; needs groups that divide dim = {case.dim}")
    return case
