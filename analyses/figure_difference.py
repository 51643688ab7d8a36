"""Figure 2: the difference of the domains' head weights, with significance.

    python analyses/figure_difference.py --out figures

is ``headlens figures difference --out figures``, with the same options.
"""

import sys

from headlens.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["figures", "difference"]
    main()
