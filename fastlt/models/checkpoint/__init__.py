"""Files of weights, ours and others': reading them without running them, pretrained backbones, import and export."""
