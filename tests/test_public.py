from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import shunter

ROOT = Path(__file__).parents[1]


def test_all_is_what_can_be_had() -> None:
    assert set(shunter._HOME) | {"__version__"} == set(shunter.__all__)
    for name in shunter.__all__:
        assert getattr(shunter, name) is not None


def test_importing_shunter_and_its_help_imports_nothing_heavy() -> None:
    code = (
        "import sys, shunter, shunter.engines.base\n"
        "from shunter.cli.main import main\n"
        "sys.argv = ['shunter', '--help']\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'mlflow', 'pandas', 'numba', 'sklearn', 'gymnasium'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)


def test_the_base_install_does_not_need_torch() -> None:
    code = (
        "import sys\n"
        "class NoTorch:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name == 'torch': raise ModuleNotFoundError(name)\n"
        "sys.meta_path.insert(0, NoTorch())\n"
        "import shunter.envs.gym.scheduling, shunter.eval.evaluation, shunter.cli.demo\n"
        "import shunter.cli.evaluations.eval_, shunter.cli.policies.train, shunter.cli.profiles.profile\n"
        "import shunter.cli.performance.fit, shunter.cli.performance.predict\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_module_offers_what_other_areas_use_and_nothing_else() -> None:
    """``__all__`` is what another area, a benchmark or an example imports; all else is a module's own affair.

    The two boundaries that third parties build on offer all of theirs, and so does the gateway's.
    """
    boundaries = {"shunter.engines.base", "shunter.agents.base", "shunter.serve.boundary"}
    used: dict[tuple[str, str], set[str]] = {(home, name): {"users"} for name, home in shunter._HOME.items()}
    offered: dict[str, set[str]] = {}
    for base in ("shunter", "benchmarks", "examples", "scripts"):
        for path in (ROOT / base).rglob("*.py"):
            parts = path.relative_to(ROOT).with_suffix("").parts
            area = parts[1] if base == "shunter" else base
            tree = ast.parse(path.read_text())
            for node in ast.walk(tree):
                if isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
                    for alias in node.names:
                        used.setdefault((node.module, alias.name), set()).add(area)
            if base == "shunter" and len(parts) > 2:
                listed = [n.value for n in tree.body if isinstance(n, ast.Assign) and _is_all(n)]
                offered[".".join(parts)] = {name for value in listed for name in ast.literal_eval(value)}
    modules = {module for module in offered if not module.endswith("__init__")}
    for module, name in used:
        others = used[module, name] - {module.split(".")[1] if "." in module else ""}
        if module in modules and others and f"{module}.{name}" not in modules:
            assert name in offered[module], f"{module} does not offer {name}, which {others} use"
    for module in modules - boundaries:
        own = module.split(".")[1]
        idle = {name for name in offered[module] if not used.get((module, name), set()) - {own}}
        assert not idle, f"{module} offers {idle} to nobody"


def _is_all(node: ast.Assign) -> bool:
    return isinstance(node.targets[0], ast.Name) and node.targets[0].id == "__all__"
