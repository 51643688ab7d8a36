"""Figure 6: per-head anomaly maps.

    python analyses/figure_head_maps.py --out figures

is ``headlens figures head-maps --out figures``, with the same options.
"""

import sys

from headlens.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["figures", "head-maps"]
    main()
