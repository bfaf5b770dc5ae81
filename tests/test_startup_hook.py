"""The start-up hook inside one interpreter: what it costs, finds, leaves alone and survives."""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from nnunet_neuro.startup import find_class, plugin_classes

HOOK = "_nnunet_neuro_autoload"
SEARCH = "nnunetv2.utilities.find_class_by_name"


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Run code in a fresh interpreter of this environment."""
    return subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=300,
                          env={**os.environ, "NNNEURO_AUTOLOAD": "1", **environment})


def test_start_up_imports_nothing_that_the_interpreter_has_not_anyway():
    hook_folder = Path(importlib.import_module(HOOK).__file__).parent
    # -S: without site nothing else has imported modules either; site itself always imports os
    done = subprocess.run([sys.executable, "-S", "-c", textwrap.dedent(f"""
        import os, sys
        before = set(sys.modules)
        sys.path.insert(0, {str(hook_folder)!r})
        import _nnunet_neuro_autoload
        _nnunet_neuro_autoload.install()
        print(sorted(set(sys.modules) - before))
    """)], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "['_nnunet_neuro_autoload']", done.stderr


def test_nnunet_finds_every_class_without_an_import_of_ours():
    names = [(plugin.name, plugin.kind) for plugin in plugin_classes().values()]
    assert {kind for _, kind in names} == {"trainer", "planner"}
    done = python(f"""
        import sys, nnunetv2, os
        from {SEARCH} import recursive_find_python_class
        assert "nnunet_neuro" not in sys.modules
        for name, kind in {names!r}:
            found = recursive_find_python_class(os.path.join(nnunetv2.__path__[0], "anything"), name, "nnunetv2.anything")
            assert found.__name__ == name, name
            assert found.__module__ == f"nnunet_neuro.{{kind}}s.{{name}}", found.__module__
    """)
    assert done.returncode == 0, done.stderr


def test_nnunets_own_classes_are_found_as_before():
    done = python("""
        from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
        assert find("nnUNetTrainer").__module__ == "nnunetv2.training.nnUNetTrainer.nnUNetTrainer"
        try:
            find("nnUNetTrainerThatNobodyWrote")
        except RuntimeError as error:
            assert "nnUNetTrainerThatNobodyWrote" in str(error)
        else:
            raise AssertionError
    """)
    assert done.returncode == 0, done.stderr


def test_switch():
    done = python(f"""
        import sys, nnunet_neuro
        from {SEARCH} import recursive_find_python_class
        assert not hasattr(recursive_find_python_class, "nnunet_neuro")
        assert not [f for f in sys.meta_path if "Search" in type(f).__name__]
    """, NNNEURO_AUTOLOAD="0")
    assert done.returncode == 0, done.stderr


def test_import_reaches_modules_that_hold_the_search_already():
    """`import nnunet_neuro` after nnU-Net, with the .pth file not read."""
    done = python(f"""
        import os
        os.environ["NNNEURO_AUTOLOAD"] = "1"
        from nnunetv2.utilities import find_objects
        import {SEARCH} as search
        assert not hasattr(search.recursive_find_python_class, "nnunet_neuro")
        import nnunet_neuro
        assert search.recursive_find_python_class.nnunet_neuro
        assert find_objects.recursive_find_python_class is search.recursive_find_python_class
        first = search.recursive_find_python_class
        from {HOOK} import install
        install()
        assert search.recursive_find_python_class is first, "wrapped twice"
    """, NNNEURO_AUTOLOAD="0")
    assert done.returncode == 0, done.stderr


BROKEN = {
    "registry cannot be imported": "sys.modules['nnunet_neuro.startup'] = None",
    "registry raises": "import nnunet_neuro.startup as s; s.find_class = lambda name: 1 / 0",
    "package is gone": "sys.modules['nnunet_neuro'] = None",
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_plugin_is_a_warning(damage):
    done = python(f"""
        import sys, warnings
        {BROKEN[damage]}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
            assert find("nnUNetTrainer").__name__ == "nnUNetTrainer"
        assert [w for w in caught if "nnU-Net goes on without it" in str(w.message)], caught
    """)
    assert done.returncode == 0, done.stderr


def test_a_search_function_that_nnunet_renamed_is_a_warning(tmp_path):
    (tmp_path / "nnunetv2/utilities").mkdir(parents=True)
    for name in ("nnunetv2/__init__.py", "nnunetv2/utilities/__init__.py"):
        (tmp_path / name).touch()
    (tmp_path / "nnunetv2/utilities/find_class_by_name.py").write_text("def find(): return 1\n")
    done = python(f"""
        import sys; sys.path.insert(0, {str(tmp_path)!r})
        from {SEARCH} import find
        assert find() == 1
    """)
    assert done.returncode == 0 and "has no recursive_find_python_class any more" in done.stderr, done.stderr


def test_hooks_of_two_plugins_on_the_same_module_both_work():
    done = python(f"""
        import importlib.util, sys
        seen = []

        class Other:
            def find_spec(self, name, path=None, target=None):
                if name != {SEARCH!r}:
                    return None
                sys.meta_path.remove(self)
                spec = importlib.util.find_spec(name)
                run = spec.loader.exec_module
                def exec_module(module):
                    run(module)
                    seen.append(module)
                spec.loader.exec_module = exec_module
                return spec

        for position in (0, len(sys.meta_path)):
            sys.modules.pop({SEARCH!r}, None)
            from {HOOK} import install
            install()
            sys.meta_path.insert(position if position == 0 else 1, Other())
            module = importlib.import_module({SEARCH!r})
            assert module.recursive_find_python_class.nnunet_neuro and seen.pop() is module
    """)
    assert done.returncode == 0, done.stderr


def test_a_look_at_the_module_does_not_use_the_hook_up():
    done = python(f"""
        import importlib.util
        assert importlib.util.find_spec({SEARCH!r}) is not None
        from {SEARCH} import recursive_find_python_class
        assert recursive_find_python_class.nnunet_neuro
        import sys
        assert not [f for f in sys.meta_path if "Search" in type(f).__name__]
    """)
    assert done.returncode == 0, done.stderr


def test_a_users_class_of_the_same_name_comes_first(tmp_path):
    (tmp_path / "mine.py").write_text("from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
                                      "class nnUNetTrainerAxialAttention(nnUNetTrainer):\n    pass\n")
    done = python("""
        from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
        assert find("nnUNetTrainerAxialAttention").__module__ == "mine"
    """, nnUNet_extTrainer=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_names_are_exact():
    assert find_class("nnUNetTrainer") is None
    assert find_class("nnUNetTrainerAxial") is None
    assert find_class("nnUNetTrainerAxialAttention").__name__ == "nnUNetTrainerAxialAttention"


@pytest.mark.parametrize("method", ["spawn", "forkserver", "fork"])
def test_worker_processes_find_the_trainer(tmp_path, method):
    script = tmp_path / "walk.py"
    script.write_text(textwrap.dedent(f"""
        import multiprocessing, pickle

        def look(name):
            from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
            return find(name)  # pickled by reference on the way back

        if __name__ == "__main__":
            with multiprocessing.get_context({method!r}).Pool(1) as pool:
                found = pool.apply(look, ("nnUNetTrainerAxialAttention",))
            assert found.__module__ == "nnunet_neuro.trainers.nnUNetTrainerAxialAttention"
            assert pickle.loads(pickle.dumps(found)) is found
    """))
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


def test_a_users_own_trainer_folder_goes_on_working(tmp_path):
    (tmp_path / "mine.py").write_text("from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer\n"
                                      "class nnUNetTrainerMine(nnUNetTrainer):\n    pass\n")
    done = python("""
        from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
        assert find("nnUNetTrainerMine").__name__ == "nnUNetTrainerMine"
        assert find("nnUNetTrainerAxialAttention").__module__.startswith("nnunet_neuro.")
    """, nnUNet_extTrainer=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_our_trainer_folder_works_as_an_external_one_with_the_hook_off():
    import nnunet_neuro.startup as startup

    folder = next(iter(plugin.path.parent for plugin in startup.plugin_classes().values() if plugin.kind == "trainer"))
    done = python("""
        from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
        assert find("nnUNetTrainerAxialAttention").__name__ == "nnUNetTrainerAxialAttention"
    """, NNNEURO_AUTOLOAD="0", nnUNet_extTrainer=str(folder))
    assert done.returncode == 0, done.stderr


def test_two_ranks_on_gloo_find_the_trainer(tmp_path):
    """As nnU-Net's DDP does it: torch spawns ranks, each looks the trainer up by name."""
    script = tmp_path / "ranks.py"
    script.write_text(textwrap.dedent("""
        import os
        import torch, torch.distributed as dist, torch.multiprocessing as mp

        def rank_main(rank, world):
            os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=os.environ["PORT"])
            dist.init_process_group("gloo", rank=rank, world_size=world)
            from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name as find
            found = torch.tensor([len(find("nnUNetTrainerAxialAttention").__module__)])
            dist.all_reduce(found)
            assert found.item() == world * len("nnunet_neuro.trainers.nnUNetTrainerAxialAttention")
            dist.barrier()  # neither leaves while the other still talks to it
            dist.destroy_process_group()

        if __name__ == "__main__":
            mp.spawn(rank_main, args=(2,), nprocs=2)
    """))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=300,
                          env={**os.environ, "PORT": str(port)})
    assert done.returncode == 0, done.stderr
