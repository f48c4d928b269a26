"""Identity of a backbone, and the tensors that training changed, without torch."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import WeakValueDictionary

from skembed.exceptions import IntegrityError, WeightsMismatchError

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["POOLINGS", "BackboneSpec", "Place", "TunedWeights", "place_of"]

#: Ways to make one row of the positions of a block; `skembed.inference.pooling` has their functions, and needs torch.
POOLINGS = ("pooled", "cls", "mean", "max", "mean+max", "last")

_PLACE = re.compile(r"(?P<host>.+)\.(?P<key>added_\d+)\.(?P<rest>.+)")


@dataclass(frozen=True)
class BackboneSpec:
    """Picklable identity of a backbone, sufficient to load it again.

    Parameters
    ----------
    source : {"image", "text", "audio", "factory"}
        Kind of backbone that `name` names. The configuration beside the weights decides which library reads it.
    name : str
        Hub id, timm name, torchaudio bundle, directory, or "package.module:function" for a factory.
    revision : str, optional
        Branch, tag or commit on the hub.
    options : tuple of (str, object) pairs
        Options that change the network itself, such as ``("image_size", 96)``.
    tuned : TunedWeights, optional
        Tensors that take the place of the backbone's own.
    """

    source: str
    name: str
    revision: str | None = None
    options: tuple[tuple[str, Any], ...] = ()
    tuned: TunedWeights | None = None


class Place(NamedTuple):
    """Origin of an added tensor: its host module, the addition, and its name in it."""

    host: str
    key: str
    rest: str


def place_of(name: str) -> Place | None:
    """Return the origin of an added tensor; None for a tensor of the network itself.

    Examples
    --------
    >>> place_of("layer.2.added_0.down.weight")
    Place(host='layer.2', key='added_0', rest='down.weight')
    >>> place_of("layer.2.added_0.down.lora_A.added_1.weight")
    Place(host='layer.2.added_0.down.lora_A', key='added_1', rest='weight')
    >>> place_of("layer.2.weight")
    """
    # The last of several: what was added first may have been added to since.
    found = _PLACE.fullmatch(name)
    return None if found is None else Place(**found.groupdict())


class TunedWeights:
    """Tensors that replace those of a backbone; a value for `backbone=` of any embedder.

    It is never changed after it was made, so that clones share it.

    Parameters
    ----------
    base : BackboneSpec
        The backbone that was trained.
    base_fingerprint : str
        Digest of its weights. Other weights raise an error.
    data : bytes
        The changed tensors, as a safetensors file holds them.
    archive : bytes, optional
        The base's own files, see `skembed.backbones.weights.archive`, for machines that lack them. Those of one base
        are one object, in memory and in a pickle.
    added : dict of str to dict, optional
        Additions to the network by name and in order: "method" and its settings, as values of JSON.
        See `skembed.backbones.tuning`.

    Attributes
    ----------
    digest : str
        Hex digest of the bytes.
    fingerprint : str
        Hex digest of base, bytes and what was added, which is the fingerprint of the backbone that they make together.
    """

    #: Pickles from before there were additions have none.
    added: dict[str, dict[str, Any]] = {}

    def __init__(
        self,
        base: BackboneSpec,
        base_fingerprint: str,
        data: bytes,
        archive: bytes = b"",
        added: Mapping[str, dict[str, Any]] | None = None,
    ):
        self.base = base
        self.base_fingerprint = base_fingerprint
        self.data = data
        self.archive = _one_archive(self, archive)
        self.digest = sha256(data).hexdigest()
        identity = f"{base_fingerprint}\0{self.digest}"
        if added:
            self.added = dict(added)
            identity += f"\0{json.dumps(self.added)}"
        self.fingerprint = sha256(identity.encode()).hexdigest()

    @classmethod
    def of(
        cls,
        before: BackboneSpec,
        fingerprint: str,
        tensors: Mapping[str, Tensor],
        added: Mapping[str, dict[str, Any]] | None = None,
    ) -> TunedWeights:
        """Return the weights of a backbone after training.

        Changes of an earlier training stay, except for tensors that changed again.

        Parameters
        ----------
        before : BackboneSpec
            The backbone that training began with.
        fingerprint : str
            Digest of its weights.
        tensors : mapping of str to Tensor
            That are others now, or new.
        added : mapping of str to dict, optional
            Records of new additions, by names from `next_name`.
        """
        from safetensors.torch import save

        earlier, base = before.tuned, before
        held = {} if earlier is None else earlier.tensors()
        if earlier is not None:
            base, fingerprint = earlier.base, earlier.base_fingerprint
        changed = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
        # Merged into a weight that was trained further, low-rank factors are in it already.
        held = {name: v for name, v in held.items() if f"{name.rpartition('.lora_')[0]}.weight" not in changed}
        whole = {**held, **changed}
        records = {**({} if earlier is None else earlier.added), **(added or {})}
        used = {place.key for place in map(place_of, whole) if place is not None}
        records = {key: record for key, record in records.items() if key in used}
        archive = b"" if earlier is None else earlier.archive
        return cls(base, fingerprint, save(whole), archive, records)

    def merged(self, state: Mapping[str, Tensor]) -> TunedWeights:
        """Return the same with whole weights in the place of low-rank factors.

        Parameters
        ----------
        state : mapping of str to Tensor
            State of the resulting network, in float32.
        """
        from safetensors.torch import save

        kept = {name: value for name, value in self.tensors().items() if ".lora_" not in name}
        hosts = {name.rpartition(".lora_")[0] for name in self.tensors() if ".lora_" in name}
        whole = {name: state[name].detach().cpu().contiguous() for name in (f"{host}.weight" for host in hosts)}
        added = {key: record for key, record in self.added.items() if record["method"] != "lora"}
        return TunedWeights(self.base, self.base_fingerprint, save({**kept, **whole}), self.archive, added)

    @staticmethod
    def next_name(tuned: TunedWeights | None) -> str:
        """Return the name for the next addition to a network."""
        numbers = [int(key.rpartition("_")[2]) for key in (tuned.added if tuned is not None else ())]
        return f"added_{max(numbers, default=-1) + 1}"

    def tensors(self) -> dict[str, Tensor]:
        """Return the tensors by their names in the network's `state_dict`, on the CPU.

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

    def __sklearn_clone__(self) -> TunedWeights:
        return self

    def __deepcopy__(self, memo) -> TunedWeights:
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.archive = _one_archive(self, self.archive)

    def __eq__(self, other) -> bool:
        return isinstance(other, TunedWeights) and other.fingerprint == self.fingerprint

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        methods = "".join(f", {record['method']}" for record in self.added.values())
        return f"<{self.base.name} fine-tuned{methods}, {len(self.data) / 1e6:.1f} MB, {self.digest[:8]}>"


#: Those that hold an archive now.
_holders: WeakValueDictionary[int, TunedWeights] = WeakValueDictionary()


def _one_archive(owner: TunedWeights, archive: bytes) -> bytes:
    """Return the archive, or an equal one that is in memory already."""
    if not archive:
        return archive
    others = [held for held in _holders.values() if held is not owner]
    _holders[id(owner)] = owner
    return next((held.archive for held in others if held.archive == archive), archive)
