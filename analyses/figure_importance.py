"""Figure 3: importance against learned weight.

    python analyses/figure_importance.py --out figures

is ``headlens figures importance --out figures``, with the same options.
"""

import sys

from headlens.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["figures", "importance"]
    main()
