"""The start-up hook that lets nnU-Net find the classes of nnunet_neuro by name.

Stdlib only, and nothing of nnunet_neuro is imported before nnU-Net asks for a class: an interpreter that never imports nnU-Net
pays one entry in sys.meta_path. nnU-Net 2.8.1 looks every trainer, planner, preprocessor, normaliser and reader up through
`nnunetv2.utilities.find_class_by_name.recursive_find_python_class`; this module wraps that one function when its module is imported.
Whatever goes wrong in the plugin becomes a warning, and nnU-Net's own search goes on. `NNNEURO_AUTOLOAD=0` switches the hook off.
"""

# only what every interpreter has loaded before it reads .pth files; importlib.util alone would cost 20 ms at each start
import os
import sys

SEARCH_MODULE = "nnunetv2.utilities.find_class_by_name"
SEARCH_FUNCTION = "recursive_find_python_class"
SWITCH = "NNNEURO_AUTOLOAD"


def install():
    """Make nnU-Net's class search see the plugin, now or as soon as nnU-Net is imported; does nothing the second time."""
    if os.environ.get(SWITCH, "1") == "0":
        return
    try:
        if SEARCH_MODULE in sys.modules:
            _wrap_search(sys.modules[SEARCH_MODULE])
        # compared by name: in a checkout this file is there twice, installed beside the .pth and inside the package
        elif not any(type(finder).__name__ == _SearchModuleFinder.__name__ for finder in sys.meta_path):
            sys.meta_path.insert(0, _SearchModuleFinder())
    except Exception as error:
        _warn(error)


class _SearchModuleFinder:
    """Wraps the loader of nnU-Net's search module, and takes itself out of sys.meta_path once that module was loaded."""

    def __init__(self):
        self.asking = False

    def find_spec(self, fullname, path=None, target=None):
        if fullname != SEARCH_MODULE or self.asking:
            return None
        self.asking = True
        try:
            import importlib.util

            # through the public entry, so that hooks of other plugins on the same module still get their turn
            spec = importlib.util.find_spec(fullname)
            if spec is not None and spec.loader is not None:
                self._wrap_loader(spec.loader)
            return spec
        except Exception as error:
            _warn(error)
            return None
        finally:
            self.asking = False

    def _wrap_loader(self, loader):
        exec_module = loader.exec_module

        def exec_and_wrap(module):
            exec_module(module)
            try:
                _wrap_search(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
            except Exception as error:
                _warn(error)

        loader.exec_module = exec_and_wrap


def _wrap_search(module):
    search = getattr(module, SEARCH_FUNCTION, None)
    if search is None:
        _warn(f"{SEARCH_MODULE} has no {SEARCH_FUNCTION} any more")
        return
    if getattr(search, "nnunet_neuro", False):
        return

    def search_plugin_first(*args, **kwargs):
        found = _find_in_plugin(args, kwargs)
        return search(*args, **kwargs) if found is None else found

    search_plugin_first.__name__ = search_plugin_first.__qualname__ = SEARCH_FUNCTION
    search_plugin_first.__doc__ = search.__doc__
    search_plugin_first.__wrapped__ = search
    search_plugin_first.nnunet_neuro = True
    setattr(module, SEARCH_FUNCTION, search_plugin_first)
    # modules that were imported before the hook hold the function under their own name
    for name, other in list(sys.modules.items()):
        if name.startswith("nnunetv2") and getattr(other, SEARCH_FUNCTION, None) is search:
            setattr(other, SEARCH_FUNCTION, search_plugin_first)


def _find_in_plugin(args, kwargs):
    # nnU-Net passes (folder, class_name, ...); any string argument may be the name, so that another signature still works
    for candidate in (*args, *kwargs.values()):
        if isinstance(candidate, str) and candidate.isidentifier():
            try:
                from nnunet_neuro.startup import find_class

                found = find_class(candidate)
            except Exception as error:
                _warn(error)
                return None
            if found is not None:
                return found
    return None


def _warn(reason):
    import warnings

    warnings.warn(f"nnunet_neuro is not available to nnU-Net: {reason!r}; nnU-Net goes on without it "
                  f"(run nnneuro_doctor, or set {SWITCH}=0 to silence this)", RuntimeWarning, stacklevel=2)
