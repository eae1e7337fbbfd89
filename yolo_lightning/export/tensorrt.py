"""TensorRT: a folder with the ONNX graph and the script that builds the engine, which is run where it can be.

An engine fits one kind of GPU and one version of TensorRT, so it is built where it will run.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import torch

from ..errors import InputError
from . import onnx
from .formats import ExportOptions, ExportSource


def write(source: ExportSource, path: Path, options: ExportOptions) -> None:
    """Write ``model.onnx``, ``build.sh``, and ``model.engine`` if there is a GPU and trtexec.

    Half precision is left to TensorRT, which chooses it layer by layer.
    """
    path.mkdir()
    onnx.write(source, path / "model.onnx", replace(options, half=False))
    command = trtexec_command(options, source.facts.stride)
    script = path / "build.sh"
    words = "# Builds model.engine for the GPU of this machine."
    script.write_text(f'#!/bin/sh\n{words}\ncd "$(dirname "$0")" && {command}\n')
    script.chmod(0o755)
    if torch.cuda.is_available() and shutil.which("trtexec"):
        done = subprocess.run([script], capture_output=True, text=True)
        if done.returncode:
            reason = (done.stderr or done.stdout).strip().splitlines()[-1:]
            raise InputError(
                f"trtexec cannot build the engine ({' '.join(reason)}); see its output: {command}"
            )


def trtexec_command(options: ExportOptions, stride: int) -> str:
    """The command that builds the engine from the graph in the current folder."""
    words = ["trtexec", "--onnx=model.onnx", "--saveEngine=model.engine"]
    if options.half:
        words.append("--fp16")
    if options.dynamic:
        height, width = options.image_size
        most = f"{max(1, options.batch_size)}x3x{height}x{width}"
        words += [f"--minShapes=images:1x3x{stride}x{stride}", f"--optShapes=images:{most}"]
        words.append(f"--maxShapes=images:{most}")
    return " ".join(words)
