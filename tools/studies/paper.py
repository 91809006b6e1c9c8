"""The numbers of the paper's printed tables, as text that `definitions` parses.

The first line of a table names its columns, task and metrics; every other line is a
row: its title, the values in the order of the columns ("-" where the copy of the paper
at hand is not legible) and, where the paper has it, the number of parameters.
"""

TABLE1 = {
    "depth": """
row           | depth_zbuffer rmse rel delta1
teacher       | 10.22 1.57 0.6687
depth-edge2d  | 10.21 1.22 0.6581
depth-normal  | 10.32 1.32 0.4656
depth-edge3d  | 10.21 1.25 0.5841
""",
    "normal": """
row           | normal rmse delta1 delta2
teacher       | 7.52 0.6767 0.7943
depth-normal  | 7.56 0.6400 0.7283
edge2d-normal | 7.51 0.6587 0.7845
edge3d-normal | 7.57 0.6323 0.7215
""",
    "edge2d": """
row           | edge_texture rmse delta1 delta2
teacher       | 6.07 0.4841 0.7256
depth-edge2d  | 6.40 0.4586 0.7112
edge2d-normal | 6.51 0.4508 0.6997
edge2d-edge3d | 6.06 0.4774 0.7231
""",
    "edge3d": """
row           | edge_occlusion rmse delta1 delta2
teacher       | 6.11 0.4840 0.7056
depth-edge3d  | 6.12 0.4706 0.6988
edge3d-normal | 6.43 0.3913 0.6731
edge2d-edge3d | 6.09 0.4763 0.7159
""",
}

TABLE3 = """
row             | depth_zbuffer rmse rel delta1 | edge_texture rmse delta1 delta2 delta3
dMTL            | - - 0.4953                    | - - 0.3763 0.5037
dMTL + GradNorm | 10.23 1.22 0.5581             | 7.48 0.4191 0.5270 0.6402
ours            | 10.21 1.22 0.6176             | 6.40 0.4586 0.7112 0.7855
"""

TABLE4 = """
row             | depth_zbuffer rmse rel delta1 | edge_texture rmse delta1 delta2 delta3
teacher         | 10.22 1.57 0.6687             | 6.07 0.4841 0.7256 0.8148
w/o auxiliary   | 10.26 1.23 0.4953             | 7.83 0.4002 0.5295 0.6132
vanishing point | 10.42 1.23 0.4737             | 8.86 0.2144 0.3227 0.5159
keypoint3d      | 10.21 1.22 0.6176             | 6.70 0.4586 0.7112 0.7981
"""

TABLE5 = """
row             | depth_zbuffer rmse rel | edge_texture rmse delta1 delta2 delta3
KD              | 10.26 1.23             | 7.83 0.2002 0.3905 0.5295
KD + MIA        | 10.22 1.25             | 6.91 0.3102 0.5216 0.7690
KD + MIA + ACCT | 10.21 1.22             | 6.40 0.4586 0.7112 0.7855
"""

SUPP1 = """
row|depth_zbuffer rmse rel delta1|edge_texture rmse delta1|normal rmse delta1 delta2
teachers | 10.22 1.57 0.6687 | 6.07 0.4841 | 7.52 0.6767 0.7943 | 360.27M
KD       | 10.41 1.36 0.4548 | 8.27 0.2453 | 9.68 0.4527 0.6178 | 221.96M
ours     | 10.20 1.25 0.5543 | 6.78 0.4436 | 7.81 0.6213 0.7832 | 221.96M
"""

SUPP2 = {
    "two tasks": """
row         | depth_zbuffer rmse rel | edge_texture rmse delta1
KD 2-to-2   | 10.38 1.47 | 7.24 0.2700 | 177.74M
ours 2-to-1 | 10.21 1.22 | 6.40 0.4586 | 175.75M
""",
    "three tasks": """
row|depth_zbuffer rmse rel|edge_texture rmse delta1|normal rmse delta1 delta2
KD 3-to-3   | 10.38 1.47 | 7.24 0.2700 | 8.41 0.5829 0.7296 | 266.61M
ours 3-to-1 | 10.20 1.25 | 6.78 0.4436 | 7.81 0.6213 0.7832 | 221.96M
""",
}

# Supplement, Table 3, of 2 and 3 tasks: seconds for an unnamed number of images.
SECONDS = {
    "teachers": (8.925, 13.387),
    "KD n-to-n students": (7.724, 11.545),
    "ours, n-to-1": (5.560, 6.876),
}
