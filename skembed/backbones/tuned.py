"""What training changed of a backbone, as bytes: no torch is needed to hold, compare or pickle it."""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import TYPE_CHECKING

from skembed.backbones.base import Backbone, BackboneSpec
from skembed.exceptions import IntegrityError, WeightsMismatchError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["TunedWeights"]


class TunedWeights:
    """Tensors that take the place of a backbone's own; a value for `backbone=` of any embedder.

    It is never changed after it was made, so that clones share it.

    Parameters
    ----------
    base : BackboneSpec
        The backbone that was trained.
    base_fingerprint : str
        Digest of its weights: others are refused.
    data : bytes
        The changed tensors, as a safetensors file holds them.
    archive : bytes, optional
        The base's own files, see `skembed.backbones.archive`, for machines that lack them.

    Attributes
    ----------
    digest : str
        Hex digest of the bytes.
    fingerprint : str
        Hex digest of base and bytes, which is the fingerprint of the backbone that they make together.
    """

    def __init__(self, base: BackboneSpec, base_fingerprint: str, data: bytes, archive: bytes = b""):
        self.base = base
        self.base_fingerprint = base_fingerprint
        self.data = data
        self.archive = archive
        self.digest = sha256(data).hexdigest()
        self.fingerprint = sha256(f"{base_fingerprint}\0{self.digest}".encode()).hexdigest()

    @classmethod
    def of(cls, backbone: Backbone, tensors: Mapping[str, Tensor]) -> TunedWeights:
        """What makes a backbone, as it was loaded, into one with these tensors.

        Where it was a tuned one already, its own changes stay but for those that are changed again.
        """
        from safetensors.torch import save

        before, base, fingerprint = backbone.spec.tuned, backbone.spec, backbone.fingerprint
        held = {} if before is None else before.tensors()
        if before is not None:
            base, fingerprint = before.base, before.base_fingerprint
        changed = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        archive = b"" if before is None else before.archive
        return cls(base, fingerprint, save({**held, **changed}), archive)

    def tensors(self) -> dict[str, Tensor]:
        """The tensors by their names in the network's `state_dict`, on the CPU.

        Raises
        ------
        IntegrityError
            If the bytes are not those that were stored.
        """
        from safetensors.torch import load

        if sha256(self.data).hexdigest() != self.digest:
            raise IntegrityError(
                f"The fine-tuned weights of {self.base.name!r} were changed since they were stored. "
                "Load the estimator from another copy of its file, or fit again."
            )
        return load(self.data)

    def check_base(self, fingerprint: str) -> None:
        """Refuse weights other than those that were trained.

        Raises
        ------
        WeightsMismatchError
            If the fingerprint is another.
        """
        if fingerprint != self.base_fingerprint:
            raise WeightsMismatchError(
                f"These fine-tuned weights belong to {self.base.name!r} of fingerprint {self.base_fingerprint[:12]}, "
                f"and the one found here has {fingerprint[:12]}. Install the weights that were trained, or fit again."
            )

    def load_into(self, backbone: Backbone) -> None:
        """Put the tensors in their places."""
        tensors, own = self.tensors(), backbone.module.state_dict()
        wrong = [name for name, value in tensors.items() if name not in own or own[name].shape != value.shape]
        if wrong:
            has = "no" if wrong[0] not in own else "another shape of"
            raise WeightsMismatchError(
                f"{backbone.spec.name} has {has} {wrong[0]!r}, which was fine-tuned: it is read differently by the "
                "libraries installed here. Install the versions that it was trained with, or fit again."
            )
        backbone.module.load_state_dict(tensors, strict=False)
        backbone.fingerprint = self.fingerprint

    def __sklearn_clone__(self) -> TunedWeights:
        return self

    def __deepcopy__(self, memo) -> TunedWeights:
        return self

    def __eq__(self, other) -> bool:
        return isinstance(other, TunedWeights) and other.fingerprint == self.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        return f"<{self.base.name} fine-tuned, {len(self.data) / 1e6:.1f} MB, {self.digest[:8]}>"
