"""Figure 9: the method without its parts, a table and its figure.

    python analyses/figure_method.py --out figures

is ``headlens figures method --out figures``, with the same options.
"""

import sys

from headlens.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["figures", "method"]
    main()
