"""One loaded model with its context: forward passes and KV copies on numbered slots."""

from __future__ import annotations

import ctypes
from typing import Any

import llama_cpp
import numpy as np
import numpy.typing as npt

from ..base import CheckpointError, DeviceMemoryError, EngineError, RequestError
from .gguf import MAX_BATCH_TOKENS, cells_per_request
from .native import last_errors, touch_mapped


class LlamaModel:
    """Weights on their devices, KV cells for every slot, and one batch buffer.

    Each slot has KV cells of its own (``kv_unified`` off): in a shared pool a request's cells may lie in
    another order after a restore, sums are then rounded differently, and on a small model half of the
    preempted requests went on with other tokens.

    Args:
        checkpoint: Path of the GGUF file.
        device: ggml's handle; None for the host alone.
        gpu_layers: Layers on the device.
        context_tokens: Most tokens of one request.
        max_batch: Slots.
        threads: Host threads.
        mmap: Whether the file is mapped into memory rather than read into buffers.

    Raises:
        CheckpointError: llama.cpp cannot load the file.
        DeviceMemoryError: A buffer could not be allocated.
    """

    def __init__(
        self,
        checkpoint: str,
        *,
        device: int | None,
        gpu_layers: int,
        context_tokens: int,
        max_batch: int,
        threads: int,
        mmap: bool = False,
    ) -> None:
        last_errors()
        self._context: Any = None
        self._batch: Any = None
        self._model = llama_cpp.llama_model_load_from_file(
            checkpoint.encode(), _model_params(device, gpu_layers, mmap)
        )
        if self._model is None:
            raise _load_error(checkpoint)
        try:
            self._check_kind(checkpoint)
            if mmap:
                touch_mapped(checkpoint)
            self._context = llama_cpp.llama_init_from_model(
                self._model, _context_params(context_tokens, max_batch, threads)
            )
            if self._context is None:
                raise _load_error(checkpoint)
            self._allocate_batch(max(MAX_BATCH_TOKENS, max_batch))
            self._warm_up(max_batch)
        except EngineError:
            self.close()
            raise

    def _check_kind(self, checkpoint: str) -> None:
        kinds = {
            "encoder": llama_cpp.llama_model_has_encoder(self._model),
            "recurrent": llama_cpp.llama_model_is_recurrent(self._model),
            "hybrid": llama_cpp.llama_model_is_hybrid(self._model),
            "diffusion": llama_cpp.llama_model_is_diffusion(self._model),
        }
        found = [name for name, is_one in kinds.items() if is_one]
        if found:
            raise CheckpointError(f"{checkpoint}: it is no plain decoder but a model with {found[0]} parts")

    def _allocate_batch(self, rows: int) -> None:
        self.vocab_size: int = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._memory = llama_cpp.llama_get_memory(self._context)
        self._batch = batch = llama_cpp.llama_batch_init(rows, 0, 1)
        self._tokens = np.ctypeslib.as_array(batch.token, (rows,))
        self._positions = np.ctypeslib.as_array(batch.pos, (rows,))
        self._outputs = np.ctypeslib.as_array(batch.logits, (rows,))
        np.ctypeslib.as_array(batch.n_seq_id, (rows,))[:] = 1
        # llama.cpp allocates the one slot number of each row apart; they are set through these pointers.
        self._slots = [batch.seq_id[row] for row in range(rows)]

    def _warm_up(self, max_batch: int) -> None:
        # The first pass builds graphs and touches buffers: a part of loading, not of the first request.
        self.step(list(range(max_batch)), [0] * max_batch, [0] * max_batch)
        llama_cpp.llama_memory_clear(self._memory, False)

    def close(self) -> None:
        """Frees all of it."""
        if self._batch is not None:
            llama_cpp.llama_batch_free(self._batch)
        if self._context is not None:
            llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)
        self._batch = self._context = self._model = None

    def prefill(self, slot: int, tokens: list[int]) -> int:
        """Runs a prompt into an empty slot and returns the likeliest next token."""
        ids = np.asarray(tokens, dtype=np.int32)
        for start in range(0, len(ids), MAX_BATCH_TOKENS):
            part = ids[start : start + MAX_BATCH_TOKENS]
            rows = len(part)
            self._tokens[:rows] = part
            self._positions[:rows] = np.arange(start, start + rows)
            self._outputs[:rows] = 0
            self._outputs[rows - 1] = start + rows == len(ids)
            for row in range(rows):
                self._slots[row][0] = slot
            self._run(rows)
        return self._likeliest(1)[0]

    def step(self, slots: list[int], tokens: list[int], positions: list[int]) -> list[int]:
        """Feeds one token to each of these slots, in ascending order, and returns the likeliest next ones."""
        rows = len(slots)
        self._tokens[:rows] = tokens
        self._positions[:rows] = positions
        self._outputs[:rows] = 1
        for row, slot in enumerate(slots):
            self._slots[row][0] = slot
        self._run(rows)
        return self._likeliest(rows)

    def copy_out(self, slot: int) -> npt.NDArray[np.uint8]:
        """A copy of a slot's KV in host memory."""
        size = llama_cpp.llama_state_seq_get_size(self._context, slot)
        data = np.empty(size, np.uint8)
        written = llama_cpp.llama_state_seq_get_data(self._context, _bytes_pointer(data), size, slot)
        if written != size:
            raise EngineError(f"llama.cpp saved {written} of {size} bytes of KV: {last_errors()}")
        return data

    def copy_in(self, slot: int, data: npt.NDArray[np.uint8]) -> None:
        """Fills an empty slot with what ``copy_out`` gave, here or in another resident of the model.

        Raises:
            RequestError: It is the KV of another model, or too long for this resident.
        """
        read = llama_cpp.llama_state_seq_set_data(self._context, _bytes_pointer(data), data.nbytes, slot)
        if read != data.nbytes:
            self.clear(slot)
            raise RequestError(f"the saved KV does not fit this resident: {last_errors()}")

    def clear(self, slot: int) -> None:
        """Empties a slot."""
        llama_cpp.llama_memory_seq_rm(self._memory, slot, -1, -1)

    def _run(self, rows: int) -> None:
        self._batch.n_tokens = rows
        status = llama_cpp.llama_decode(self._context, self._batch)
        if status != 0:
            raise EngineError(f"llama_decode failed with {status}: {last_errors()}")

    def _likeliest(self, rows: int) -> list[int]:
        logits = llama_cpp.llama_get_logits(self._context)
        shaped: npt.NDArray[np.float32] = np.ctypeslib.as_array(logits, (rows, self.vocab_size))
        return [int(token) for token in shaped.argmax(axis=1)]


def _bytes_pointer(data: npt.NDArray[np.uint8]) -> Any:
    return data.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))


def _model_params(device: int | None, gpu_layers: int, mmap: bool) -> Any:
    params = llama_cpp.llama_model_default_params()
    # Unless the list names the device, llama.cpp takes its own choice or none, and ignores gpu_layers then.
    devices = (ctypes.c_void_p * 2)(device, None)
    params.devices = ctypes.cast(devices, ctypes.c_void_p)
    params.keep_alive = devices
    params.n_gpu_layers = gpu_layers
    # Never left to llama.cpp, which would choose by device. Mapped memory is page cache: shared with others,
    # evicted under pressure, and still there after an unload.
    params.load_mode = llama_cpp.LLAMA_LOAD_MODE_MMAP if mmap else llama_cpp.LLAMA_LOAD_MODE_NONE
    # Weights stay as they are in the file, on both sides: repacked ones (AMX above all) are computed with
    # other rounding than those on a device, and AMX is announced but illegal on some virtual machines.
    params.use_extra_bufts = False
    return params


def _context_params(context_tokens: int, max_batch: int, threads: int) -> Any:
    params = llama_cpp.llama_context_default_params()
    cells = cells_per_request(context_tokens)
    params.n_ctx = cells * max_batch
    params.n_seq_max = max_batch
    params.kv_unified = False
    params.swa_full = False  # as llama-server: layers with a window keep no more than that and one pass
    params.n_batch = params.n_ubatch = max(MAX_BATCH_TOKENS, max_batch)
    params.n_outputs_max = max_batch  # the logits buffer is as wide as the vocabulary
    params.n_threads = params.n_threads_batch = threads
    # Without it V lies transposed, and saving KV copies it element by element.
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
    params.no_perf = True
    return params


def _load_error(checkpoint: str) -> EngineError:
    reason = last_errors()
    kind = DeviceMemoryError if "alloc" in reason else CheckpointError
    return kind(f"{checkpoint}: llama.cpp cannot load it: {reason or 'it does not say why'}")
