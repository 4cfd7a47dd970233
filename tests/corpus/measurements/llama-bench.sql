CREATE TABLE IF NOT EXISTS llama_bench (
  build_commit TEXT,
  build_number INTEGER,
  cpu_info TEXT,
  gpu_info TEXT,
  backends TEXT,
  model_filename TEXT,
  model_type TEXT,
  model_size INTEGER,
  model_n_params INTEGER,
  n_batch INTEGER,
  n_ubatch INTEGER,
  n_threads INTEGER,
  cpu_mask TEXT,
  cpu_strict INTEGER,
  poll INTEGER,
  type_k TEXT,
  type_v TEXT,
  n_gpu_layers INTEGER,
  n_cpu_moe INTEGER,
  split_mode TEXT,
  main_gpu INTEGER,
  no_kv_offload INTEGER,
  flash_attn INTEGER,
  devices TEXT,
  tensor_split TEXT,
  tensor_buft_overrides TEXT,
  load_mode TEXT,
  lazy_mode TEXT,
  embeddings INTEGER,
  no_op_offload INTEGER,
  no_host INTEGER,
  repack INTEGER,
  fit_target INTEGER,
  fit_min_ctx INTEGER,
  n_prompt INTEGER,
  n_gen INTEGER,
  n_depth INTEGER,
  test_time TEXT,
  avg_ns INTEGER,
  stddev_ns INTEGER,
  avg_ts REAL,
  stddev_ts REAL
);

INSERT INTO llama_bench (build_commit, build_number, cpu_info, gpu_info, backends, model_filename, model_type, model_size, model_n_params, n_batch, n_ubatch, n_threads, cpu_mask, cpu_strict, poll, type_k, type_v, n_gpu_layers, n_cpu_moe, split_mode, main_gpu, no_kv_offload, flash_attn, devices, tensor_split, tensor_buft_overrides, load_mode, lazy_mode, embeddings, no_op_offload, no_host, repack, fit_target, fit_min_ctx, n_prompt, n_gen, n_depth, test_time, avg_ns, stddev_ns, avg_ts, stddev_ts) VALUES ('b6a1c2d', '6123', 'AMD Ryzen 9 7950X 16-Core Processor', 'NVIDIA GeForce RTX 4090', 'CUDA', 'models/Meta-Llama-3-8B-Instruct-Q4_K_M.gguf', 'llama 8B Q4_K - Medium', '4912898304', '8030261248', '2048', '512', '16', '0x0', '0', '50', 'f16', 'f16', '99', '0', 'layer', '0', '0', '-1', 'auto', '0.00', 'none', 'auto', 'auto', '0', '0', '0', '1', '0', '0', '512', '0', '0', '2026-03-04T10:20:30Z', '42200000', '100000', '12132.746841', '28.750666');
INSERT INTO llama_bench (build_commit, build_number, cpu_info, gpu_info, backends, model_filename, model_type, model_size, model_n_params, n_batch, n_ubatch, n_threads, cpu_mask, cpu_strict, poll, type_k, type_v, n_gpu_layers, n_cpu_moe, split_mode, main_gpu, no_kv_offload, flash_attn, devices, tensor_split, tensor_buft_overrides, load_mode, lazy_mode, embeddings, no_op_offload, no_host, repack, fit_target, fit_min_ctx, n_prompt, n_gen, n_depth, test_time, avg_ns, stddev_ns, avg_ts, stddev_ts) VALUES ('b6a1c2d', '6123', 'AMD Ryzen 9 7950X 16-Core Processor', 'NVIDIA GeForce RTX 4090', 'CUDA', 'models/Meta-Llama-3-8B-Instruct-Q4_K_M.gguf', 'llama 8B Q4_K - Medium', '4912898304', '8030261248', '2048', '512', '16', '0x0', '0', '50', 'f16', 'f16', '99', '0', 'layer', '0', '0', '-1', 'auto', '0.00', 'none', 'auto', 'auto', '0', '0', '0', '1', '0', '0', '0', '128', '0', '2026-03-04T10:20:30Z', '906000000', '1000000', '141.280468', '0.155939');
INSERT INTO llama_bench (build_commit, build_number, cpu_info, gpu_info, backends, model_filename, model_type, model_size, model_n_params, n_batch, n_ubatch, n_threads, cpu_mask, cpu_strict, poll, type_k, type_v, n_gpu_layers, n_cpu_moe, split_mode, main_gpu, no_kv_offload, flash_attn, devices, tensor_split, tensor_buft_overrides, load_mode, lazy_mode, embeddings, no_op_offload, no_host, repack, fit_target, fit_min_ctx, n_prompt, n_gen, n_depth, test_time, avg_ns, stddev_ns, avg_ts, stddev_ts) VALUES ('b6a1c2d', '6123', 'AMD Ryzen 9 7950X 16-Core Processor', 'NVIDIA GeForce RTX 4090', 'CUDA', 'models/Meta-Llama-3-8B-Instruct-Q4_K_M.gguf', 'llama 8B Q4_K - Medium', '4912898304', '8030261248', '2048', '512', '16', '0x0', '0', '50', 'f16', 'f16', '99', '0', 'layer', '0', '0', '-1', 'auto', '0.00', 'none', 'auto', 'auto', '0', '0', '0', '1', '0', '0', '0', '128', '4096', '2026-03-04T10:20:30Z', '1011000000', '1000000', '126.607402', '0.125230');
INSERT INTO llama_bench (build_commit, build_number, cpu_info, gpu_info, backends, model_filename, model_type, model_size, model_n_params, n_batch, n_ubatch, n_threads, cpu_mask, cpu_strict, poll, type_k, type_v, n_gpu_layers, n_cpu_moe, split_mode, main_gpu, no_kv_offload, flash_attn, devices, tensor_split, tensor_buft_overrides, load_mode, lazy_mode, embeddings, no_op_offload, no_host, repack, fit_target, fit_min_ctx, n_prompt, n_gen, n_depth, test_time, avg_ns, stddev_ns, avg_ts, stddev_ts) VALUES ('b6a1c2d', '6123', 'AMD Ryzen 9 7950X 16-Core Processor', 'NVIDIA GeForce RTX 4090', 'CUDA', 'models/Meta-Llama-3-8B-Instruct-Q4_K_M.gguf', 'llama 8B Q4_K - Medium', '4912898304', '8030261248', '2048', '512', '16', '0x0', '0', '50', 'f16', 'f16', '99', '0', 'layer', '0', '0', '-1', 'auto', '0.00', 'none', 'auto', 'auto', '0', '0', '0', '1', '0', '0', '512', '128', '0', '2026-03-04T10:20:30Z', '951000000', '1000000', '672.976311', '0.707652');
INSERT INTO llama_bench (build_commit, build_number, cpu_info, gpu_info, backends, model_filename, model_type, model_size, model_n_params, n_batch, n_ubatch, n_threads, cpu_mask, cpu_strict, poll, type_k, type_v, n_gpu_layers, n_cpu_moe, split_mode, main_gpu, no_kv_offload, flash_attn, devices, tensor_split, tensor_buft_overrides, load_mode, lazy_mode, embeddings, no_op_offload, no_host, repack, fit_target, fit_min_ctx, n_prompt, n_gen, n_depth, test_time, avg_ns, stddev_ns, avg_ts, stddev_ts) VALUES ('b6a1c2d', '6123', 'AMD Ryzen 9 7950X 16-Core Processor', 'NVIDIA GeForce RTX 4090', 'CUDA', 'models/Meta-Llama-3-8B-Instruct-Q4_K_M.gguf', 'llama 8B Q4_K - Medium', '4912898304', '8030261248', '2048', '512', '16', '0x0', '0', '50', 'f16', 'f16', '16', '0', 'layer', '0', '0', '-1', 'auto', '0.00', 'none', 'auto', 'auto', '0', '0', '0', '1', '0', '0', '512', '0', '0', '2026-03-04T10:20:30Z', '161000000', '1000000', '3180.206017', '19.753213');
INSERT INTO llama_bench (build_commit, build_number, cpu_info, gpu_info, backends, model_filename, model_type, model_size, model_n_params, n_batch, n_ubatch, n_threads, cpu_mask, cpu_strict, poll, type_k, type_v, n_gpu_layers, n_cpu_moe, split_mode, main_gpu, no_kv_offload, flash_attn, devices, tensor_split, tensor_buft_overrides, load_mode, lazy_mode, embeddings, no_op_offload, no_host, repack, fit_target, fit_min_ctx, n_prompt, n_gen, n_depth, test_time, avg_ns, stddev_ns, avg_ts, stddev_ts) VALUES ('b6a1c2d', '6123', 'AMD Ryzen 9 7950X 16-Core Processor', 'NVIDIA GeForce RTX 4090', 'CUDA', 'models/Meta-Llama-3-8B-Instruct-Q4_K_M.gguf', 'llama 8B Q4_K - Medium', '4912898304', '8030261248', '2048', '512', '16', '0x0', '0', '50', 'f16', 'f16', '16', '0', 'layer', '0', '0', '-1', 'auto', '0.00', 'none', 'auto', 'auto', '0', '0', '0', '1', '0', '0', '0', '128', '0', '2026-03-04T10:20:30Z', '5913333333', '15275252', '21.646094', '0.055871');
INSERT INTO llama_bench (build_commit, build_number, cpu_info, gpu_info, backends, model_filename, model_type, model_size, model_n_params, n_batch, n_ubatch, n_threads, cpu_mask, cpu_strict, poll, type_k, type_v, n_gpu_layers, n_cpu_moe, split_mode, main_gpu, no_kv_offload, flash_attn, devices, tensor_split, tensor_buft_overrides, load_mode, lazy_mode, embeddings, no_op_offload, no_host, repack, fit_target, fit_min_ctx, n_prompt, n_gen, n_depth, test_time, avg_ns, stddev_ns, avg_ts, stddev_ts) VALUES ('b6a1c2d', '6123', 'AMD Ryzen 9 7950X 16-Core Processor', 'NVIDIA GeForce RTX 4090', 'CUDA', 'models/Meta-Llama-3-8B-Instruct-Q4_K_M.gguf', 'llama 8B Q4_K - Medium', '4912898304', '8030261248', '2048', '512', '16', '0x0', '0', '50', 'f16', 'f16', '0', '0', 'layer', '0', '0', '-1', 'auto', '0.00', 'none', 'auto', 'auto', '0', '0', '0', '1', '0', '0', '0', '128', '0', '2026-03-04T10:20:30Z', '11323333333', '25166114', '11.304129', '0.025113');
