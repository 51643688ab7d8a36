"""Figure 7: the attribution gallery.

    python analyses/figure_gallery.py --out figures

is ``headlens figures gallery --out figures``, with the same options.
"""

import sys

from headlens.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["figures", "gallery"]
    main()
