"""Images of SQLiteCluster, made with plain Python: no container engine, no registry.

    make rootfs     .build/rootfs/<architecture>/<image>/   what a Containerfile copies
    make images     .build/images/<image>.tar   docker-save archives, the same bytes for the same inputs

Order of the modules: ``tree`` (what is in an image), ``interpreter``, ``libraries``,
``distributions`` and ``bytecode`` (where it comes from), ``recipes`` (which image has what),
``archive`` (how it is packed), ``__main__`` (the commands).
"""
