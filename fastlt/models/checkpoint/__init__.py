"""Files of weights, of fastlt and of other projects: safe reading, pretrained backbones, import and export."""
