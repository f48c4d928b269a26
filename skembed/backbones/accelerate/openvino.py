"""OpenVINO as the engine of an image network on the CPU: an optional extra."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from skembed.backbones.accelerate.inference_copies import InferenceCopies

__all__ = ["CompiledForward"]

_PRECISIONS = {torch.float32: "f32", torch.bfloat16: "bf16"}


class CompiledForward:
    """Compiled forms of a network, and of those trained from it.

    Converted at its first batch (seconds); its weights must not change after that. Only the layers that are read are
    computed. Nothing of this is copied or pickled with a backbone.

    Parameters
    ----------
    outputs : callable
        Takes a network and pixels, returns all its layers in order, and perhaps its pooled vector after them.
    n_layers : int
        Layers among the outputs.
    copies : InferenceCopies
        Gives the network in float32.

    Raises
    ------
    ImportError
        If OpenVINO is not installed; says which extra has it.
    """

    def __init__(self, outputs: Callable[[Any, Tensor], list[Tensor]], n_layers: int, copies: InferenceCopies):
        _openvino()
        self._outputs, self._n_layers, self._copies = outputs, n_layers, copies
        self._forget()

    def __call__(
        self, module: nn.Module, pixels: Tensor, layers: Sequence[int]
    ) -> tuple[dict[int, Tensor], Tensor | None]:
        """Run the network on a batch.

        Parameters
        ----------
        module : nn.Module
            On the CPU; its dtype is the precision that is computed in.
        pixels : Tensor of shape (batch, 3, height, width)
            Batch of any size, always of the same height and width.
        layers : sequence of int
            Layers to read, from 0 to n - 1.

        Returns
        -------
        found : dict of int to Tensor, float32
            The layers.
        pooled : Tensor of shape (batch, width) or None
            The network's own summary, if the last layer was asked for.

        Raises
        ------
        ValueError
            If the device or the precision is none of OpenVINO's here, or it cannot convert the network.
        """
        weight = next(module.parameters())
        if weight.device.type != "cpu":
            raise ValueError(f'engine="openvino" runs on the CPU, not on {weight.device}. Use device="cpu".')
        if weight.dtype not in _PRECISIONS:
            raise ValueError(
                f'engine="openvino" does not support {weight.dtype}. Use precision="float32" or "bfloat16".'
            )
        with self._lock:
            held = self._held.get(module)
            if held is None:
                held = self._held[module] = (self._convert(module, pixels), {})
            model, compiled = held
            top = self._n_layers - 1
            wanted = sorted(set(layers))
            if top in wanted and len(model.outputs) > self._n_layers:
                wanted.append(self._n_layers)  # the pooled vector
            key = (tuple(wanted), weight.dtype)
            if key not in compiled:
                compiled[key] = _compile(model, wanted, _PRECISIONS[weight.dtype])
            # One call at a time: it has all cores to itself, and one set of buffers.
            results = compiled[key](pixels.float().numpy())
            values = {index: torch.from_numpy(results[i].copy()) for i, index in enumerate(wanted)}
        return values, values.pop(self._n_layers, None)

    def _convert(self, module: nn.Module, pixels: Tensor) -> Any:
        """Return an OpenVINO model for any batch size with all outputs."""
        network = _Outputs(self._copies.in_float32(module), self._outputs).eval()
        shape = pixels.shape[1:]
        # No batch of one, which traces may take for a constant; and another to see that two is none either.
        traced, other = (torch.randn(n, *shape, generator=torch.Generator().manual_seed(n)) for n in (2, 3))
        try:
            with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # a tracer warns of each constant that it meets
                model = _from_torch(network, traced)
                model.reshape([-1, *shape])
                expected = [value.numpy() for value in network(other)]
            found = _compile(model, range(len(expected)), "f32")(other.numpy())
            different = [i for i, value in enumerate(expected) if not _agree(value, found[i])]
        except Exception as error:  # of two libraries, of all kinds
            raise ValueError(f'{_CANNOT}: {str(error)[:300]}. Use engine="torch".') from error
        if different:
            raise ValueError(f'{_CANNOT}: its layers {different} give other values. Use engine="torch".')
        return model

    def _forget(self) -> None:
        self._held: WeakKeyDictionary[nn.Module, tuple[Any, dict]] = WeakKeyDictionary()
        self._lock = threading.Lock()

    def __getstate__(self):
        return {"_outputs": self._outputs, "_n_layers": self._n_layers, "_copies": self._copies}

    def __setstate__(self, state):
        self.__dict__.update(state)
        self._forget()


_CANNOT = 'engine="openvino" cannot run this network'


class _Outputs(nn.Module):
    """Module that returns all outputs as a tuple, which can be traced."""

    def __init__(self, network: nn.Module, outputs: Callable[[Any, Tensor], list[Tensor]]):
        super().__init__()
        self.network, self.outputs = network, outputs

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.outputs(self.network, pixels))


def _agree(expected, found) -> bool:
    return expected.shape == found.shape and bool(abs(expected - found).max() <= 1e-3 * abs(expected).max())


def _openvino() -> Any:
    try:
        import openvino
    except ImportError as error:
        raise ImportError(
            'engine="openvino" needs OpenVINO, which is not installed. Install it with: pip install skembed[compiled]'
        ) from error
    return openvino


def _from_torch(network: nn.Module, example: Tensor) -> Any:
    """Convert a network as `openvino.convert_model` does, without its telemetry."""
    from openvino.frontend import FrontEndManager
    from openvino.frontend.pytorch.ts_decoder import TorchScriptPythonDecoder

    # By name: OpenVINO calls back into each of them, but keeps none of them alive.
    manager = FrontEndManager()
    frontend = manager.load_by_framework("pytorch")
    decoder = TorchScriptPythonDecoder(network, example_input=(example,))
    loaded = frontend.load(decoder)
    return frontend.convert(loaded)


def _compile(model: Any, outputs: Sequence[int], precision: str) -> Any:
    ov = _openvino()
    kept = model.clone()
    if len(outputs) < len(kept.outputs):
        kept = ov.Model([kept.outputs[i] for i in outputs], kept.get_parameters())
    settings = {
        "INFERENCE_PRECISION_HINT": precision,
        "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        "NUM_STREAMS": 1,
    }
    return ov.Core().compile_model(kept, "CPU", settings)
