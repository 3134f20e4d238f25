"""What to do about the error messages that are the most likely, by the message as docs/errors.md writes it.

Links are relative to that page. A message that changes in the source changes here, too; the tests say so.
"""

NEAREST = "; did you mean <name>?"

ADVICE: dict[str, str] = {
    "<name> is not prepared in <data dir>: python -m jax_itm prepare <name><source> --data_dir <data dir>": (
        "Run that line, with `--source` where the set is made from your files; or set "
        "`config.data.data_dir` to the folder where it was prepared."
    ),
    "--source: <name> is made from raw files; name their directory<steps>": (
        "Add `--source DIR`, or `--config.data.source=DIR` with `--config`. Where the files come "
        "from is in the line, or in [data](data.md#layouts)."
    ),
    "<source>: needs one .json, .jsonl or .csv file of captions, found <names>; --source may name the file": (
        "Put one such file beside the pictures ([your own pictures](data.md#your-own-pictures)); of "
        "several, name one: `--source DIR/captions.csv`."
    ),
    "<path>:1: needs the columns path and caption, separated by commas; has <columns>": (
        "Call the columns of the CSV's first line `path` and `caption`, in any order; a column "
        "`split` is read, too."
    ),
    "<missing>: no such image in <where> (<number of missing> of <total> are missing<hint>)": (
        "The paths in the captions are relative to their file's folder, or to its folder `images`."
    ),
    "--source <raw files>: has changed since <path> was prepared from it; remove that to prepare it "
    "again, or choose another --data_dir": (
        "After adding pictures or captions: remove the folder that the line names, and run the same command."
    ),
    "config.data.max_regions=<max regions>: an image has <count> regions": (
        "Set the field to that number; `python -m jax_itm describe` shows the largest of each split."
    ),
    "config.<name>: no such field; did you mean <name>?": (
        "`python -m jax_itm config FILE` prints the fields of that run; fields depend on the preset "
        "([configuration](configuration.md)). Your own term's fields need its module in `config.imports`."
    ),
    "config.<name>=<text>: must be of type <kind>, such as <old>": (
        "Values are Python literals: quote a tuple for the shell, `--config.optimizer.betas='(0.9, 0.98)'`."
    ),
    "config.image.name=<name> reads config.data.modality=<wanted>, not <modality>": (
        "Set `config.data.modality` to what the encoder reads: `pixels`, or for `regions` region features."
    ),
    "config.<side>.path: name the directory of the pretrained encoder, or an architecture "
    "(config.<side>.arch) to start it from random values": (
        "Give a directory or a name on the hub ([pretrained encoders](pretrained_encoders.md))."
    ),
    "<field>=<path>: no such directory, and the hub did not provide it (<one line>)": (
        "On a machine without a network, download the model elsewhere and name its directory."
    ),
    "config.<side>.cached: <name>/<split> was not encoded by this backbone: python -m jax_itm "
    "prepare --encode --config FILE, with the same settings": (
        "Run `prepare` with the same `--config` and overrides as `train` ([cached "
        "tokens](training.md#cached-tokens))."
    ),
    "<field>=<batch size>: not divisible by <devices> devices<parts>; the nearest that is: <nearest>": (
        "Take the number at the end of the line, or another number of devices."
    ),
    "config.imports: <name> cannot be imported (<error>)": (
        "Start the command in the module's folder, or put that on `PYTHONPATH` "
        "([extending](extending/loss.md))."
    ),
    "<folder>: another <kind> runs there, <holder>": (
        "Wait for it, stop it, or choose another `--workdir`. A lock of a process that has died "
        "does not hold."
    ),
    "config.<name>=<value>: the run in <workdir> was started with <get>; resume it with that value, "
    "or choose another --workdir": (
        "What a run computes stays as it was; fields marked **resume** may change "
        "([resuming](training.md#resuming)). To begin a new run with its parameters: `--config.start=RUN`."
    ),
    "<changed>, with which the run in <workdir> was started; resume it on that data, choose another "
    "--workdir, or accept the new data with --accept_new_data": (
        "Have the data been prepared again on purpose? Then add `--accept_new_data`; better start a new run."
    ),
    "config: saved by another version of jax_itm: it <state> config.<name>": (
        "Use the commit that the run was trained with; the run's folder `code` names it."
    ),
    "<workdir>: no checkpoint there; train a run first": (
        "Is it the right directory? A run that was killed before its first checkpoint has none."
    ),
    "step <step>: <name> is <value><reason>; training stopped, <kept>": (
        "Lower `config.optimizer.lr`, lengthen `config.optimizer.warmup`, or lower "
        "`config.optimizer.clip`; the same command resumes from the checkpoint. Where the line says "
        "that an input is not finite, repair the data."
    ),
}
