"""Figure 5: the layer profile.

    python analyses/figure_layers.py --out figures

is ``headlens figures layers --out figures``, with the same options.
"""

import sys

from headlens.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["figures", "layers"]
    main()
