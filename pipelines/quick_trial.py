"""The policy of a trial of minutes, and a policy folder for a gateway that demotes by the same one.

Knows files; not what the policies say.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

import policies

SHIPPED: Final = Path(policies.__file__).parent
QUICK_PROMOTION: Final = SHIPPED / "promotion.quick.yaml"


def policies_with(promotion: Path, folder: Path) -> Path:
    """Fill a folder with the shipped policies, and `promotion` in the place of promotion.yaml. Returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("planner.yaml", "clusters.yaml", "access.yaml", "redaction.yaml"):
        shutil.copyfile(SHIPPED / name, folder / name)
    shutil.copyfile(promotion, folder / "promotion.yaml")
    return folder
