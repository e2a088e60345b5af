"""Maps against known evidence: composed images, networks trained on them, every method and layer.

    python -m bench.truth
    python -m bench.truth --folder FOLDER    # with further networks

| module | one job |
|---|---|
| ``world`` | images with two objects of different classes, whose masks are known |
| ``networks`` | the trained networks |
| ``measures`` | hit, own, lift and the contrast drop of one map |
| ``rules`` | how layer and method are chosen: by cam_hub, by peers, by knowing the masks |
| ``report`` | the tables |
"""
