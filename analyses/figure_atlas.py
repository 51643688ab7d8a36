"""Figure 10: the most important heads on one page.

    python analyses/figure_atlas.py --out figures

is ``headlens figures atlas --out figures``, with the same options.
"""

import sys

from headlens.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["figures", "atlas"]
    main()
