"""CIFAR-10 weights of your own, from file to overlay: cifar_checkpoint.py net.th mycode:resnet20 cat.png out.png"""

import sys

import camhelpers as ch

checkpoint, architecture, picture, out = sys.argv[1:]
classes = "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck"
cifar = {"size": 32, "mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)}
ex = ch.explain(ch.load_model(checkpoint, architecture, classes=classes, **cifar), picture)
ch.images.save_image(out, ex.overlay("layercam"))
print(ex.title())
