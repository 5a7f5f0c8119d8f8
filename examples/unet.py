"""Why a U-Net calls pixels what it does: unet.py weights.pt mycode:UNet picture.jpg overlay.png"""

import sys

import camhelpers as ch

weights, architecture, picture, out = sys.argv[1:]
model = ch.load_model(weights, architecture, classes=["background", "object"], size=(128, 128))
ex = ch.explain(model, picture, target=lambda scores: scores[1].mean())  # (classes, H, W): the object's, everywhere
print("by", ex.layers[0])
ch.images.save_image(out, ex.overlay("gradcam"))
