"""Files of other programs, a module for each family of formats. Every module has

- ``TITLE`` as people call it, and ``SUFFIX`` of the file that it writes, empty for a folder;
- ``LOSES``: what the format cannot hold, and what is done with it instead;
- ``detect(path)``: whether a path looks like it, judged by names and the first bytes;
- ``read(path, size)`` -> `Annotations`; ``size`` (height, width) or None serves formats that do not say it. InputError;
- ``write(annotations, path)`` -> the kinds of things that turned out not to fit, besides those of ``LOSES``.
"""
