"""The passes over a chunk of logits as Triton kernels: one reads a row, one writes its gradient where the logits stood.

The three products of a head stay with cuBLAS; what lies between them is bound by memory. Per number of fp32 logits the
kernels move 4 bytes to read a row, and 4 + 2 bytes to write its gradient in bf16, instead of about 36 and 16 for the
operations of :class:`~verl.dft.loss.chunk.TorchChunk`. Sums are fp32. Nothing waits for the device.

Importing this module needs triton, which comes with the CUDA builds of torch.
"""

from dataclasses import dataclass

import torch
import triton
import triton.language as tl

from verl.dft.loss.chunk import Chunk, log_probability
from verl.dft.loss.statistics import FROM_LARGEST, FROM_SUMS, STATISTICS, RowSums, statistics_of

# Of a row are read at a time: BLOCK numbers by WARPS x 32 threads, four 16-byte loads each.
BLOCK = 4096
WARPS = 8
FOUND = 5  # numbers per row that read_rows finds
SLICE = 512  # rows at a time for a statistic that needs the logits: fewer launches than on a CPU, larger temporaries


@triton.jit
def read_rows(
    logits, targets, found, lanes, V, width, stride, MOMENTS: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr
):
    """One program per row: ``found`` (n, 5) gets, over all tokens but the target, the maximum m, sum e^(z-m),
    sum e^(z-m) (z-m), sum e^(2(z-m)), the last two with MOMENTS only; then the target's logit.

    LANES: ``lanes`` (n, BLOCK) gets the maximum over v = lane, lane + BLOCK, ... without the target.
    Rows have V numbers, are read up to ``width`` and begin ``stride`` apart.
    """
    row = tl.program_id(0).to(tl.int64)
    base, to = logits + row * stride, found + row * 5
    target = tl.load(targets + row)
    m = tl.full((BLOCK,), -float("inf"), tl.float32)  # one running maximum per lane: no reduction inside the loop
    s = tl.zeros((BLOCK,), tl.float32)
    first = tl.zeros((BLOCK,), tl.float32)
    squares = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, width, BLOCK):
        v = start + tl.arange(0, BLOCK)
        z = tl.load(base + v, mask=v < width, other=-float("inf"))
        # Not in the load's mask, where the comparison with the target would cost the 16-byte loads.
        z = tl.where((v == target) | (v >= V), -float("inf"), z)
        larger = tl.maximum(m, z)
        level = tl.where(larger == -float("inf"), 0.0, larger)
        shrink, e = tl.exp(m - level), tl.exp(z - level)
        if MOMENTS:
            sunk = tl.where(m == -float("inf"), 0.0, m - level)
            first = shrink * (first + sunk * s) + tl.where(z == -float("inf"), 0.0, e * (z - level))
            squares = squares * shrink * shrink + e * e
        s = s * shrink + e
        m = larger
    top = tl.max(m, 0)
    shrink = tl.where(m == -float("inf"), 1.0, tl.exp(m - top))  # an empty lane's sums are 0, or NaN if a logit was
    tl.store(to, top)
    tl.store(to + 1, tl.sum(s * shrink, 0))
    if MOMENTS:
        sunk = tl.where(m == -float("inf"), 0.0, m - top)
        tl.store(to + 2, tl.sum(shrink * (first + sunk * s), 0))
        tl.store(to + 3, tl.sum(squares * shrink * shrink, 0))
    tl.store(to + 4, tl.load(base + target))
    if LANES:
        tl.store(lanes + row * BLOCK + tl.arange(0, BLOCK), m)


@triton.jit
def read_divergence(
    reference, logits, reference_tops, tops, found, V, width, reference_stride, stride, BLOCK: tl.constexpr
):
    """One program per row: ``found`` (n,) = sum of e^(r-t_r) ((r - t_r) - (z - t_z)) for rows of logits r and z.

    With their largest numbers as t the differences are exact where the mass is, and equal rows give 0.
    """
    row = tl.program_id(0).to(tl.int64)
    r_base, z_base = reference + row * reference_stride, logits + row * stride
    r_top, z_top = tl.load(reference_tops + row), tl.load(tops + row)
    total = tl.zeros((BLOCK,), tl.float32)
    for start in range(0, width, BLOCK):
        v = start + tl.arange(0, BLOCK)
        r = tl.load(r_base + v, mask=v < width, other=-float("inf")) - r_top
        z = tl.load(z_base + v, mask=v < width, other=0.0) - z_top
        mass = tl.where(v < V, tl.exp(r), 0.0)
        total += tl.where(mass == 0.0, 0.0, mass * (r - z))
    tl.store(found + row, tl.sum(total, 0))


@triton.jit
def write_gradient(
    logits, targets, tops, others, at_target, out, V, width, stride, out_stride,
    reference, reference_tops, factors, reference_stride, KL: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program per row: ``out`` = ``others e^(z-top)``, at the target ``at_target``; with KL plus
    ``factors e^(r - reference_tops)``.

    ``out`` may be the row's own memory in a dtype as wide or narrower: block by block, what is written lies at or
    before what all threads have read.
    """
    row = tl.program_id(0).to(tl.int64)
    base, to = logits + row * stride, out + row * out_stride
    target, top = tl.load(targets + row), tl.load(tops + row)
    scale, own = tl.load(others + row), tl.load(at_target + row)
    if KL:
        r_base = reference + row * reference_stride
        r_top, factor = tl.load(reference_tops + row), tl.load(factors + row)
    for start in range(0, width, BLOCK):
        v = start + tl.arange(0, BLOCK)
        z = tl.load(base + v, mask=v < width, other=-float("inf"))
        g = tl.where(v == target, own, scale * tl.exp(z - top))
        if KL:
            g += factor * tl.exp(tl.load(r_base + v, mask=v < width, other=-float("inf")) - r_top)
        tl.debug_barrier()  # every thread has read before any writes
        tl.store(to + v, g.to(out.dtype.element_ty), mask=v < width)


@triton.jit
def multiply_unless_one(numbers, factor, count, BLOCK: tl.constexpr):
    """``numbers *= factor``, a number on the device; a factor of 1 costs the launch alone."""
    f = tl.load(factor)
    if f != 1.0:
        i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
        x = tl.load(numbers + i, mask=i < count)
        tl.store(numbers + i, (x * f).to(numbers.dtype.element_ty), mask=i < count)


@dataclass(frozen=True)
class _Row:
    """Of rows, each ``(n,)``: the largest logit t in fp32; in fp64 z_y - t, e^(z_y-t), the same sum over all others."""

    top: torch.Tensor
    height: torch.Tensor
    own: torch.Tensor
    rest: torch.Tensor

    @classmethod
    def of(cls, sums: RowSums) -> "_Row":
        top = torch.maximum(sums.of_target, sums.largest_other)
        height = sums.of_target - top
        return cls(top.float(), height, height.exp(), sums.others * (sums.largest_other - top).exp())

    @property
    def total(self) -> torch.Tensor:
        return self.own + self.rest


class KernelChunk(Chunk):
    """With the kernels above: logits in fp32, each row's numbers next to each other."""

    ROW_MULTIPLE = 16  # so that every row can be read 16 bytes at a time, whatever V is
    # 1.7 GiB of logits at V = 151,936. Larger chunks read and write the fp32 gradient of the weight less often.
    GPU_ROWS = 3072
    SIZE = 1.0
    BLOCK = BLOCK

    def __init__(
        self, logits: torch.Tensor, targets: torch.Tensor, names: tuple[str, ...], reference: torch.Tensor | None
    ) -> None:
        assert logits.dtype == torch.float32 and logits.stride(1) == 1, f"{logits.dtype=} {logits.stride()=}"
        self.logits, self.targets, self.reference, self.kl = logits, targets, reference, None
        sums, lanes = self._read(logits, names)
        self.row = _Row.of(sums)
        self.log_probs = log_probability(self.row.height, self.row.own, self.row.rest).float()
        self.hits = sums.of_target >= sums.largest_other
        self.statistics = {name: self._statistic(name, sums, lanes).float() for name in names}
        if reference is not None:
            self.kl = self._divergence(reference).float()

    def _read(self, logits: torch.Tensor, names: tuple[str, ...]) -> tuple[RowSums, torch.Tensor | None]:
        found = logits.new_empty(len(logits), FOUND)
        lanes = logits.new_empty(len(logits), self.BLOCK) if FROM_LARGEST.keys() & set(names) else None
        self._launch(
            read_rows, logits, self.targets, found, found if lanes is None else lanes, *self._shape(logits),
            MOMENTS=bool(FROM_SUMS.keys() & set(names)), LANES=lanes is not None,
        )  # fmt: skip
        # In fp64 from here on: m - z of a likely target, rounded to fp32, would carry 1e-6 into 1 - p.
        largest_other, others, first, squares, of_target = found.double().unbind(1)
        return RowSums(of_target, largest_other, others, first, squares), lanes

    def _statistic(self, name: str, sums: RowSums, lanes: torch.Tensor | None) -> torch.Tensor:
        if name in FROM_SUMS:
            return FROM_SUMS[name](sums)
        if name in FROM_LARGEST:
            assert lanes is not None
            return STATISTICS[name](self._largest(lanes, sums.of_target, FROM_LARGEST[name]), self.targets)
        return statistics_of(self.logits, self.targets, (name,), SLICE)[name]

    def _largest(self, lanes: torch.Tensor, of_target: torch.Tensor, count: int) -> torch.Tensor:
        """Logits ``(n, few)`` of each row, the ``count`` largest among them.

        A logit outside the ``count`` lanes with the largest maxima is no larger than any of these maxima.
        """
        chosen = lanes.topk(min(count, lanes.shape[1]), dim=1).indices.unsqueeze(2)
        vocabulary = self.logits.shape[1]
        columns = (chosen + torch.arange(0, vocabulary, self.BLOCK, device=lanes.device)).flatten(1)
        values = self.logits.gather(1, columns.clamp(max=vocabulary - 1))
        is_other = (columns < vocabulary) & (columns != self.targets.unsqueeze(1))
        return torch.cat([values.where(is_other, -torch.inf), of_target.float().unsqueeze(1)], dim=1)

    def _divergence(self, reference: torch.Tensor) -> torch.Tensor:
        assert reference.dtype == torch.float32 and reference.stride(1) == 1, f"{reference.stride()=}"
        self.reference_row = _Row.of(self._read(reference, ())[0])
        found = reference.new_empty(len(reference))
        self._launch(
            read_divergence, reference, self.logits, self.reference_row.top, self.row.top, found,
            *self._shape(self.logits)[:2], reference.stride(0), self.logits.stride(0),
        )  # fmt: skip
        of_reference, own = self.reference_row.total, self.row.total
        return found.double() / of_reference + own.log() - of_reference.log()

    def gradient(self, d_log_probs: torch.Tensor, d_kl: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        row, (rows, vocabulary) = self.row, self.logits.shape
        others = ((d_kl - d_log_probs) / row.total).float()
        at_target = ((d_log_probs * row.rest + d_kl * row.own) / row.total).float()
        pitch = self.logits.stride(0) * self.logits.element_size() // dtype.itemsize
        # The same memory, seen in the other dtype; rows keep their places.
        memory = torch.as_strided(self.logits, (rows, self.logits.stride(0)), (self.logits.stride(0), 1))
        out = memory.view(dtype).as_strided((rows, vocabulary), (pitch, 1))
        other: tuple = (self.logits, row.top, row.top, 0)  # placeholders that are not read
        if self.reference is not None:
            factors = (-d_kl / self.reference_row.total).float()
            other = (self.reference, self.reference_row.top, factors, self.reference.stride(0))
        self._launch(
            write_gradient, self.logits, self.targets, row.top, others, at_target, out, *self._shape(self.logits),
            pitch, *other, KL=self.reference is not None,
        )  # fmt: skip
        return out

    def _shape(self, logits: torch.Tensor) -> tuple[int, int, int]:
        """V, the numbers to read of a row (a multiple of ROW_MULTIPLE where its memory is) and the row's stride."""
        vocabulary, stride = logits.shape[1], logits.stride(0)
        return vocabulary, min(stride, vocabulary + -vocabulary % self.ROW_MULTIPLE), stride

    def _launch(self, kernel, logits: torch.Tensor, *arguments, **constants) -> None:
        if len(logits):
            with torch.cuda.device_of(logits):
                kernel[(len(logits),)](logits, *arguments, **constants, BLOCK=self.BLOCK, num_warps=WARPS)

    @staticmethod
    def multiply(gradient: torch.Tensor, factor: torch.Tensor) -> None:
        if not gradient.is_contiguous():
            gradient.mul_(factor)
        elif gradient.numel():
            with torch.cuda.device_of(gradient):
                programs = triton.cdiv(gradient.numel(), BLOCK)
                multiply_unless_one[(programs,)](gradient, factor, gradient.numel(), BLOCK=BLOCK, num_warps=WARPS)
