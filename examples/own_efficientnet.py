"""An EfficientNet-Lite0 of timm from a checkpoint: own_efficientnet.py weights.pt picture.jpg overlay.png"""

import sys

import camhelpers as ch

weights, picture, out = sys.argv[1:]
model = ch.load_model(weights, "timm/tf_efficientnet_lite0", classes=1000)
ex = ch.explain(model, picture)
print(ex.title(), "by", ex.layers[0])
ch.images.save_image(out, ex.overlay("layercam"))
