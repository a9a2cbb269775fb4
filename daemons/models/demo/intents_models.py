"""Questions about getting, keeping and fitting models; the format is explained in `intents`."""

from daemons.models.demo.phrases import Intent

_MODEL = "[model|llm|language model|gguf model]"

MODEL_INTENTS: tuple[Intent, ...] = (
    Intent(
        "models-pull",
        "To download a model, run `rbee models pull hf:<org>/<repo>`. When it is cut, run it again and it goes on.",
        (
            f"[download|pull|fetch|get|install|obtain] [a|another|a new|my first|some] {_MODEL}",
            f"[download|pull|fetch|get] {_MODEL}s [from|off] [hugging face|the hub|the internet]",
            "add a [new |]model [to the catalog|from hugging face|]",
        ),
        (
            "where do models come from?",
            "models pull",
            f"which command downloads a {_MODEL}?",
            "can I use models from hugging face?",
            "hugging face",
            "download model",
        ),
    ),
    Intent(
        "pull-resume",
        "Run the same `rbee models pull` again. It keeps what is there and goes on where it stopped.",
        ("[resume|continue|restart|go on with|finish] [a|my|the] [broken|cut|stopped|interrupted|failed|] download",),
        (
            "my download [broke|stopped|failed|was interrupted]",
            "is [a|my] [broken|cut|interrupted] download lost?",
            "resume download",
        ),
    ),
    Intent(
        "models-list",
        "To see your models, run `rbee models list`. It shows reference, size and the nodes that hold each one.",
        (
            "[list|see|show|view|display|get|print] [the|my|all|all the|my downloaded|the installed] models",
            "[see|find out|know] which models [are downloaded|I have|are on disk|are in the catalog|are available]",
            "[see|show|open|view] the [catalog|model catalog|list of models]",
        ),
        (
            "[which|what] models [do I have|are downloaded|are there|are available|are on disk|can I use]?",
            "how many models do I have?",
            "models list",
            "show me [my|the|all] models",
        ),
    ),
    Intent(
        "models-show",
        "To see one model, run `rbee models show <model>`. It prints size, quantisation, context and where it is "
        "stored.",
        (
            "[see|show|get|view|read] [the details|the size|details|information|more|the quantisation|the context "
            "length] [of|about] [a|one|my] model",
            "[find out|see] [where a model is stored|how big a model is|how large a model is]",
            "inspect [a|one] model",
        ),
        ("how [big|large] is a model?", "where is a model stored?", "models show", "where are models stored?"),
    ),
    Intent(
        "models-verify",
        "To verify a model, run `rbee models verify <model>`. It reads the file again and compares the checksum.",
        (
            "[verify|validate] [a|my|the] [model|model file|download]",
            "[check|test] [the checksum|the hash|the integrity|a model file]",
            "[find out|see|know|check] [if|whether] a [model|model file|download] is [damaged|broken|corrupt|"
            "complete|intact]",
        ),
        ("is my [model|download|model file] [damaged|corrupt|complete|broken]?", "models verify", "checksum"),
    ),
    Intent(
        "models-rm",
        "To delete a model, run `rbee models rm <model>`. A model in use is kept unless you add `--force`.",
        (
            "[delete|remove|erase|throw away|get rid of|drop] [a|my|an old|one|the] [model|model file|downloaded "
            "model|llm]",
            "delete a model from [disk|the disk|the catalog|a node]",
        ),
        ("which command deletes a model?", "models rm", "delete model", "I no longer need a model"),
    ),
    Intent(
        "models-prune",
        "To free disk space, run `rbee models prune --plan` and then without the flag. It removes models that "
        "nothing uses.",
        (
            "[free|get|save|win] [disk|disk space|space on the disk|more disk space|some space]",
            "[delete|remove|clean up|clear] [unused|old|all unused] models",
            "[clean|clean up|empty] the [disk|model folder]",
        ),
        ("[my|the] disk is full", "disk full", "models prune", "models take too much space", "what does prune do?"),
    ),
    Intent(
        "models-import",
        "To import a model, run `rbee models import <file>`. A folder works too.",
        (
            "[import|use|add|load|bring in] [a|my|an own|a local|my own] [gguf file|model file|local model|gguf|"
            "file from disk|folder of models]",
            "use a model [that is already on disk|from a folder|from my disk|from a usb stick]",
        ),
        (
            "I [have|downloaded] a gguf file[| already]",
            "models import",
            "can rbee use my [own|local] [model|gguf] files?",
            "import",
        ),
    ),
    Intent(
        "models-pin",
        "To keep a model loaded, run `rbee models pin <model>`. A pinned model is never unloaded to make room.",
        (
            "pin [a|my|the] model",
            "[keep|hold] [a|my|the] model [loaded|in memory|ready|warm|always loaded]",
            "[stop|prevent|keep] rbee from [unloading|evicting] a model",
        ),
        ("why [was|is] my model unloaded?", "what does pin do?", "models pin", "what is a pinned model?"),
    ),
    Intent(
        "models-unpin",
        "Run `rbee models unpin <model>`. The model may then be unloaded when it is idle.",
        (
            "unpin [a|my|the] model",
            "[undo|remove|release] [a|the] pin",
            "let [rbee unload|a pinned model unload|rbee evict] [a model |]again",
        ),
        ("what does unpin do?", "models unpin"),
    ),
    Intent(
        "models-backup",
        "To back up the model catalog, run `rbee models backup`.",
        (
            "[back up|backup|save] [my models|the catalog|the model catalog|the models]",
            "[make|create|do] a backup[| of my models| of the catalog]",
        ),
        ("is there a backup?", "models backup", "backup"),
    ),
    Intent(
        "models-restore",
        "To bring a backup back, run `rbee models restore`.",
        (
            "restore [my models|the catalog|a backup|the model catalog|the models]",
            "[bring back|get back|recover|load] [a backup|my models|the catalog]",
        ),
        ("models restore", "I lost my [catalog|models]", "restore"),
    ),
    Intent(
        "fit",
        "Run `rbee fit <model>`. It shows for every node and quantisation whether the model fits, and what is missing.",
        (
            "[see|find out|know|check|test|tell] [if|whether] [a|my|this|the] model [fits|will fit|can run|fits in "
            "memory|fits my gpu|is too big]",
            "[see|find out|estimate] how much memory a model [needs|takes|uses]",
            "find [a|the best] quantisation [that fits|for my gpu|]",
        ),
        (
            "does [a|this|my] model fit[| in memory| my gpu| on my gpu]?",
            "[which|what] models fit[| my gpu]?",
            "how much [vram|memory|gpu memory] does a model need?",
            "rbee fit",
            "is [a|my|this] model too [big|large]?",
        ),
    ),
)
