"""Whose a study is: a database may hold many, and two runs may have chosen the same name."""

from __future__ import annotations

import os
import uuid
from dataclasses import asdict, dataclass

import optuna

from flashdistill.core.errors import RunDirectoryError
from flashdistill.core.run_directory import RunDirectory

_OWNER = "owner"
_REMEMBERED = "study_owner"


@dataclass(frozen=True)
class Owner:
    """The run that a study belongs to.

    Attributes:
        identity: drawn once for a run directory; it moves with the directory.
        place: host and path of the directory when the study was begun, for messages.
    """

    identity: str
    place: str

    @classmethod
    def of(cls, directory: RunDirectory) -> Owner:
        """The owner that this run directory is; made on first use and kept in its state."""
        identity = directory.state().get(_REMEMBERED)
        if identity is None:
            identity = uuid.uuid4().hex
            directory.remember(**{_REMEMBERED: identity})
        return cls(identity, f"{os.uname().nodename}:{directory.path.absolute()}")


def require_owner(study: optuna.Study, owner: Owner, shown: str) -> None:
    """Make a study this owner's if it has none.

    Args:
        shown: the storage's URL as it may be shown.

    Raises:
        RunDirectoryError: it belongs to another run; names its directory.
    """
    found = study.user_attrs.get(_OWNER)
    if found is None:
        study.set_user_attr(_OWNER, asdict(owner))
    elif found["identity"] != owner.identity:
        raise RunDirectoryError(
            f"study {study.study_name!r} in {shown} belongs to the run in {found['place']}; "
            "give this run another name (name=NAME) or storage, or go on with that run; if that one is over "
            f"for good, remove its trials with: optuna delete-study --study-name {study.study_name} --storage URL"
        )
