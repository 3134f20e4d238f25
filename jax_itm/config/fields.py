"""Every field of a run's configuration with its default, and the values that some may have.

`config.default` makes a config of them; what a method adds is in its own file.
"""

CHOICES = {
    "image.name": ("regions", "vit", "pretrained"),
    "image.pooling": ("gpo", "mean", "max", "cls", "clip"),
    "text.name": ("bigru", "bert", "bow", "pretrained"),
    "text.pooling": ("gpo", "mean", "max", "cls", "clip"),
    "data.view": ("regions", "pixels"),
    "data.tokenizer": ("words", "wordpiece"),
    "optimizer.name": ("adamw", "bert_adam"),
    "optimizer.schedule": ("constant", "cosine", "linear", "step"),
    "dtype": ("float32", "bfloat16"),
    "similarity.form": ("auto", "ring", "gather"),
    "similarity.dtype": ("float32", "bfloat16"),
    "evaluate.protocol": ("full", "folds"),
    "method.negatives": ("distance_weighted", "hardest", "sum"),
    "method.dim_form": ("ratio", "infonce", "barlow", "diagonal"),
    "method.dim_phi": ("relu", "abs", "square", "exp"),
    "method.dim_samples": ("global", "attended"),
    "method.dim_reduce": ("sum", "mean"),
    "method.select_on": ("proximity", "distance", "discrepancy_large", "none"),
    "method.mask": ("hard", "soft"),
    "method.alignment": ("singular", "distributed", "none"),
    "method.schedule": ("exp", "linear", "log"),
    "method.modal_form": ("one_minus", "literal"),
    "method.score": ("maxmean", "pooled", "mapped"),
    "sampling.schedule": ("each_batch", "random_features", "precomputed"),
    "sampling.threshold_on": ("p", "s"),
    "sampling.scope": ("pair", "batch"),
    "sampling.level": ("pooled_batch", "patch_batch", "patch_image"),
}

HEAD = {  # what projects given features: regions, and the tokens of a pretrained tower
    "hidden": 0,  # of the MLP beside the projection; 0: regions dim // 2, pretrained none
    "feature_dropout": 0.0,  # share of the features left out in training, of all tokens of an item alike
}

TOWER = {  # pretrained
    "path": "",  # a directory as Hugging Face's libraries or open_clip save it, or a name on their hub
    "frozen": False,  # its parameters stay as they are
    "cached": False,  # of a frozen one: its tokens were made once, by `prepare --encode`
    "arch": {},  # what the tower is: read from the directory when a run starts, kept with the run
}

AUGMENT = {  # of pixels, in training alone; VSE++ has (0.08, 1.0) and 0.5, open_clip (0.9, 1.0) and 0
    "crop": (),  # (from, to): share of a picture's area that a random crop takes; () takes all of it
    "flip": 0.0,  # how often it is mirrored; captions that say left or right become false
}

IMAGE = {
    "name": "regions",
    "pooling": "gpo",
    "drop": 0.2,  # share of regions hidden in training
    "boxes": False,  # regions: append the location to the features
    "patch": 16,  # vit, from here on
    "width": 192,
    "layers": 6,
    "heads": 3,
    "augment": AUGMENT,
    "size": 0,  # pretrained: height and width in pixels; 0: as its preprocessor says
    **HEAD,
    **TOWER,
}

TEXT = {
    "name": "bigru",
    "pooling": "gpo",
    "drop": 0.2,
    "word_dim": 300,  # bigru
    "width": 256,  # bert, from here on
    "layers": 4,
    "heads": 4,
    "dropout": 0.1,  # bert and pretrained
    **HEAD,
    **TOWER,
}

SIMILARITY = {  # how a loss walks the B x B scores; similarity.Plan
    "form": "auto",
    "tile": 0,  # the largest part, rows and columns; 0: by the kind of device
    "dtype": "float32",  # of the products; sums stay float32
}

SAMPLING = {  # CDDS's distribution sampling; any dual encoder's, with method.weights.sampling
    "schedule": "each_batch",  # | random_features | precomputed: from which tokens S is taken
    "threshold_on": "p",  # | s, as printed
    "alpha": 1.0,  # start of the learnable thresholds
    "identity": 0.5,  # share of the identity in S; 0: the paper
    "scope": "pair",  # | batch
    "level": "pooled_batch",  # | patch_image, literal | patch_batch
    "temperature": 0.07,
}

DATA = {
    "name": "scenes",
    "source": "",  # the raw files, for `prepare`
    "data_dir": "data",
    "train": "train",
    "validation": "val",
    "view": "regions",
    "max_words": 32,
    "max_regions": 36,
    "image_size": 96,
    "max_pixels": 89_478_485,  # of a picture file; Pillow warns above it, and refuses above twice as many
    "region_dim": 0,  # 0: as the data set says; kept with the run
    "tokenizer": "words",
    "min_count": 1,
    "vocab_size": 30000,
    "workers": 0,  # processes that read; 0 reads in threads
}

OPTIMIZER = {
    "name": "adamw",  # | bert_adam, as UNITER's
    "lr": 5e-4,
    "schedule": "step",
    "warmup": "0 steps",
    "floor": 0.0,  # the rate is never lower
    "step_at": ("15 epochs",),
    "step_factor": 0.1,
    "betas": (0.9, 0.999),
    "eps": 1e-8,
    "weight_decay": 1e-4,
    "decay_on": (r"(kernel|recurrent|embedding)$",),
    "lr_factors": (),  # (pattern, factor) pairs over parameter paths
    "freeze": (),  # patterns
    "clip": 2.0,  # of the global norm; 0 does not clip
}

EVALUATE = {
    "every": "1 epochs",
    "batch_size": 250,
    "protocol": "full",
    "images": 0,  # validate on the first so many; 0: all. For cross-encoders
}

RUN = {  # what stands at the top, and the sections; a config has `method` besides
    "name": "",
    "start": "",  # a run, or a BERT directory, whose parameters and tokenizer this one starts from
    "seed": 0,
    "batch_size": 128,  # global, over all devices
    "micro_batches": 1,  # exact accumulation: encode in so many parts, one loss on all
    "duration": "30 epochs",
    "dtype": "float32",  # of the encoders' compute; parameters and losses stay float32
    "dim": 1024,  # of the shared embedding
    "ema": 0.0,  # decay of averaged parameters; 0 keeps none
    "fsdp": False,  # large arrays of the state are split over the devices, not copied to each
    "remat": False,  # transformer layers are computed again in the backward pass, not kept
    "patience": 600.0,  # seconds without a step or batch after which one of several processes stops; 0: waits
    "image": IMAGE,
    "text": TEXT,
    "data": DATA,
    "similarity": SIMILARITY,
    "sampling": SAMPLING,
    "optimizer": OPTIMIZER,
    "evaluate": EVALUATE,
    "log_every": 20,  # steps
}
