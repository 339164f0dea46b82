"""Each lane's own random numbers: those that its run alone would have drawn from torch's default generator.

In a stacked forward pass nothing may be drawn, for the order would be another. Instead every lane's loss is computed
once alone (``rehearse``), which tells where it draws, how many numbers, in what layout, and whether that is all it
draws. From then on the numbers are drawn before each step, lane by lane from the lane's generator (``Plan.draw``), and
handed to ``vmap`` as one more stacked input, where ``Replay`` puts them in place of each draw:

    plan, losses = rehearse(alone, models, generators)  # for each shape of a batch
    noise = plan.draw(generators)
    with Replay(plan, noise_of_one_lane): task.loss(model, batch)  # inside of vmap over the noise

The numbers come from outside of the differentiated function, so ``vmap`` of ``grad``, compilation and CUDA graphs need
nothing further, and ``vmap(randomness="error")`` refuses a draw that was overlooked. A plan that draws nothing
is false, and ``Replay`` can then be left out: it costs 1.2 microseconds per call into torch.

On a GPU a run alone draws in an order that depends on the kernel's launch, so there every place is one draw for all
lanes from the device's default generator: equal in distribution, not in bits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.overrides import TorchFunctionMode, resolve_name

from dlrun.packing.draws import OPERATIONS, Site
from dlrun.packing.flat import Unpackable

Formulas = Mapping[Callable[..., Any], Callable[..., Any]]


class Plan:
    """All places where the lanes of a pack draw in one forward pass, in order, and the memory for their numbers.

    The numbers of one draw are overwritten by the next, so a backward pass must come in between (autograd refuses it
    otherwise). False where nothing is drawn.

    Args:
        lanes: the sites of each lane, from the rehearsal of its run alone.

    Raises:
        Unpackable: the lanes draw at different places or different amounts.
    """

    def __init__(self, lanes: Sequence[Sequence[Site]]) -> None:
        if len({len(sites) for sites in lanes}) > 1:
            raise Unpackable("the trials draw random numbers at different numbers of places in their networks")
        self.places = [_Place(sites) for sites in zip(*lanes, strict=True)]

    def __bool__(self) -> bool:
        return any(place.drawn for place in self.places)

    @torch.no_grad()
    def draw(self, generators: Sequence[Generator] | None) -> tuple[Tensor, ...]:
        """The numbers of one forward pass, (K, ...) for each place that draws.

        Args:
            generators: one of the CPU for each lane; None: one draw for all lanes from the default generator of the
                device, as it is done on a GPU in any case.
        """
        return tuple(place.draw(generators) for place in self.places if place.drawn)

    def keep(self, lanes: Sequence[int]) -> Plan:
        """The plan of these lanes alone."""
        return Plan([[place.sites[lane] for place in self.places] for lane in lanes])


class _Place:
    """One call in the forward pass: a site for each lane, and a buffer (K, *shape)."""

    def __init__(self, sites: Sequence[Site]) -> None:
        first = sites[0]
        if any(site.form != first.form for site in sites):
            raise Unpackable("the trials draw random numbers of different shapes at the same place in their networks")
        self.sites, self.site = list(sites), first
        self.drawn = first.share is None or any(site.share for site in sites)
        if not self.drawn:
            return
        memory = torch.empty(len(sites) * first.extent, dtype=first.dtype, device=first.device)
        self.buffer = memory.as_strided((len(sites), *first.shape), (first.extent, *first.strides))
        self.lanes = self.buffer.unbind()
        ones = torch.tensor([1.0 - (site.share or 0.0) for site in sites], dtype=torch.float64, device=first.device)
        self.ones = ones.to(first.dtype).view(-1, *[1] * len(first.shape))  # probability of a one, where of dropout
        self.scale = self.ones.masked_fill(self.ones == 0, 1)
        self.alike = all(site.arguments == first.arguments and site.named == first.named for site in sites)

    def draw(self, generators: Sequence[Generator] | None) -> Tensor:
        if generators is not None and self.site.device.type == "cpu":
            for site, lane, generator in zip(self.sites, self.lanes, generators, strict=True):
                _fill(site, lane, generator)
        elif self.site.share is not None:
            torch.lt(self.buffer.uniform_(), self.ones, out=self.buffer)
        elif self.alike:
            _fill(self.site, self.buffer, None)
        else:
            for site, lane in zip(self.sites, self.lanes, strict=True):
                _fill(site, lane, None)
        return self.buffer.div_(self.scale) if self.site.scaled else self.buffer


def _fill(site: Site, lane: Tensor, generator: Generator | None) -> None:
    if site.share in (0, 1):
        lane.fill_(1 - site.share)
    else:
        getattr(lane, site.method)(*site.arguments, **dict(site.named), generator=generator)


class Replay(TorchFunctionMode):
    """Puts numbers that were drawn before in place of each draw of a forward pass.

    Args:
        plan: where there are draws.
        noise: the numbers of ``plan.draw``, of one lane (inside of ``vmap``: stacked for all).
        formulas: further functions of torch's that are to be replaced (``lifted.Lifted.formulas``).

    Raises:
        Unpackable: from the forward pass, where it draws otherwise than it did in the rehearsal.
    """

    def __init__(self, plan: Plan, noise: Sequence[Tensor], formulas: Formulas | None = None) -> None:
        super().__init__()
        self.formulas = formulas or {}
        rest = iter(noise)
        self.turns = [(place.site, next(rest) if place.drawn else None) for place in plan.places]
        self.done = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Called for every function of torch's while the mode is on."""
        kwargs = kwargs or {}
        operation = OPERATIONS.get(func)
        if operation is None or operation.off(*args, **kwargs):
            return self.formulas.get(func, func)(*args, **kwargs)
        if self.done == len(self.turns):
            raise Unpackable(f"{resolve_name(func)} draws random numbers where it drew none when the trial ran alone")
        site, noise = self.turns[self.done]
        self.done += 1
        return operation.use(noise, site, *args, **kwargs)


class _Recorder(TorchFunctionMode):
    """Notes each draw of a forward pass, and refuses those that a pack cannot make."""

    def __init__(self) -> None:
        super().__init__()
        self.sites: list[Site] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        operation = OPERATIONS.get(func)
        if operation is not None:
            result = func(*args, **kwargs)
            if not operation.off(*args, **kwargs):
                site = operation.site(result, *args, **kwargs)
                self.sites += [site] if site is not None else []
            return result
        before = torch.default_generator.get_state()
        result = func(*args, **kwargs)
        if not torch.equal(before, torch.default_generator.get_state()):
            raise Unpackable(f"{resolve_name(func)} draws random numbers in a way that trials of a pack cannot")
        return result


def rehearse(
    losses: Sequence[Callable[[], Any]], models: Sequence[nn.Module], generators: Sequence[Generator] | None
) -> tuple[Plan, list[Any]]:
    """Each lane's loss once, alone, and where it draws random numbers; nothing is changed by it.

    Args:
        losses: of each lane, without arguments, from the lane's own model, task and batch.
        models: of each lane; their buffers (batch statistics) are put back as they were.
        generators: of each lane, in the state in which the run alone would begin this step; they stay so. None: as on a
            GPU, where the losses are those with the numbers of the next ``plan.draw(None)``.

    Returns:
        The plan for batches of this shape, and what each loss returned: the pack's first losses must equal it.

    Raises:
        Unpackable: a lane draws in a way that a pack cannot, or the lanes draw differently.
    """
    found = []
    for lane, (loss, model) in enumerate(zip(losses, models, strict=True)):
        state = torch.default_generator.get_state() if generators is None else generators[lane].get_state()
        with _unchanged(model):
            found.append(_alone(loss, state))
    plan = Plan([sites for sites, _ in found])
    if generators is None and plan:
        return plan, _with_common_numbers(plan, losses, models)
    return plan, [value for _, value in found]


def _with_common_numbers(plan: Plan, losses: Sequence[Callable[[], Any]], models: Sequence[nn.Module]) -> list[Any]:
    """Each lane's loss alone, with the numbers that the pack's next draw from the default generator will have."""
    values = []
    with torch.random.fork_rng(_gpus()), torch.no_grad():
        noise = plan.draw(None)
        for lane, (loss, model) in enumerate(zip(losses, models, strict=True)):
            with _unchanged(model), Replay(plan, [numbers[lane] for numbers in noise]):
                values.append(loss())
    return values


def _gpus() -> list[int]:
    return list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []


def _alone(loss: Callable[[], Any], state: Tensor) -> tuple[list[Site], Any]:
    with torch.random.fork_rng(_gpus()), torch.no_grad():
        torch.default_generator.set_state(state)
        with _Recorder() as recorder:
            value = loss()
        after = torch.default_generator.get_state()
        again = Generator()
        again.set_state(state)
        Plan([recorder.sites]).draw([again])
    if not torch.equal(again.get_state(), after):
        raise Unpackable("the network draws random numbers that could not be followed, so its trials do not pack")
    return recorder.sites, value


@contextmanager
def _unchanged(model: nn.Module) -> Iterator[None]:
    """Afterwards every buffer is the tensor that it was, with the values that it had."""
    with ExitStack() as after:
        for module in model.modules():
            for name, buffer in module.named_buffers(recurse=False):
                after.callback(_put_back, module, name, buffer, buffer.clone())
        yield


def _put_back(module: nn.Module, name: str, buffer: Tensor, values: Tensor) -> None:
    with torch.no_grad():
        module._buffers[name] = buffer.copy_(values)
