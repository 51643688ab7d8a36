"""Figure 11: agreement of methods on the importance of heads.

    python analyses/figure_agreement.py --out figures

is ``headlens figures agreement --out figures``, with the same options.
"""

import sys

from headlens.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["figures", "agreement"]
    main()
