"""Figure 12: variance between runs, split over method, domain and seed.

    python analyses/figure_variance.py --out figures

is ``headlens figures variance --out figures``, with the same options.
"""

import sys

from headlens.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["figures", "variance"]
    main()
