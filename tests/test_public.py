from __future__ import annotations

import subprocess
import sys

import shunter


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
        "import shunter.envs.gym.scheduling, shunter.eval.evaluation, shunter.cli.eval_, shunter.cli.demo\n"
        "import shunter.cli.train, shunter.cli.profile, shunter.cli.fit, shunter.cli.predict\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
