"""Figure 1: learned head weights of both domains.

    python analyses/figure_weights.py --out figures

is ``headlens figures weights --out figures``, with the same options.
"""

import sys

from headlens.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["figures", "weights"]
    main()
