"""Figure 4: ablation curves, most important first against random.

    python analyses/figure_ablation.py --out figures

is ``headlens figures ablation --out figures``, with the same options.
"""

import sys

from headlens.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["figures", "ablation"]
    main()
