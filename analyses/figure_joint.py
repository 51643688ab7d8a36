"""Figure 8: the joint score against its parts.

    python analyses/figure_joint.py --out figures

is ``headlens figures joint --out figures``, with the same options.
"""

import sys

from headlens.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["figures", "joint"]
    main()
