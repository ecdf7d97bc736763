"""Learn the weights of the fused score on real screens and write them into the config of released weights.

``python -m tools.fit_fusion NAME --data FOLDER [--kept FOLDER]``: with ``--kept`` (weights fine-tuned without each screen,
as ``python -m benchmarks.cdn --real --kept FOLDER`` leaves them) each screen is scored by those that never saw it.
"""

from __future__ import annotations

import argparse
import json
from importlib import resources
from pathlib import Path

from benchmarks import cdn_real

from causcade import fusion


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", help="released weights")
    parser.add_argument("--data", type=Path, required=True, help="folder of the screens that are not in the package")
    parser.add_argument("--kept", type=Path, help="folder with weights that never saw each screen")
    args = parser.parse_args()
    features, targets, used = [], [], []
    for screen in cdn_real.SCREENS:
        model = args.name if args.kept is None else str(args.kept / screen.name)
        scored = cdn_real.score(screen, args.data, model, masked=False, n_draws=2)
        if scored is not None:
            features += scored.features
            targets += scored.targets
            used.append(screen.name)
    weights = fusion.fit_fusion(features, targets)
    path = Path(str(resources.files("causcade"))) / "weights" / args.name / "config.json"
    config = json.loads(path.read_text()) | {
        "fusion": weights,
        "fusion_screens": used,
        "fusion_by_weights_without_the_screen": args.kept is not None,
    }
    path.write_text(json.dumps(config, indent=1) + "\n")
    print(used, weights)


if __name__ == "__main__":
    main()
