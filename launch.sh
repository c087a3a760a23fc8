#!/bin/sh
# deepseek-v3 on h800-hgx with vllm 0.33.0
# 32 chips, 1 x 32
# vLLM cannot express the plan's placement of experts
# nearest: TP1, DP32, PP1, EP32 (256 slots), batch 2,048, at the same price

# instance 0, node 0 of 4: host n0, devices 0,1,2,3,4,5,6,7
vllm serve deepseek-ai/DeepSeek-V3 --tensor-parallel-size 1 --data-parallel-size 32 \
  --enable-expert-parallel --all2all-backend deepep_low_latency --max-num-seqs 64 \
  --max-num-batched-tokens 8192 --max-model-len 163840 --kv-cache-dtype bfloat16 \
  --data-parallel-size-local 8 --data-parallel-address n0 --data-parallel-rpc-port 13345 \
  --port 8000

# instance 0, node 1 of 4: host n1, devices 0,1,2,3,4,5,6,7
vllm serve deepseek-ai/DeepSeek-V3 --tensor-parallel-size 1 --data-parallel-size 32 \
  --enable-expert-parallel --all2all-backend deepep_low_latency --max-num-seqs 64 \
  --max-num-batched-tokens 8192 --max-model-len 163840 --kv-cache-dtype bfloat16 \
  --data-parallel-size-local 8 --data-parallel-address n0 --data-parallel-rpc-port 13345 \
  --headless --data-parallel-start-rank 8

# instance 0, node 2 of 4: host n2, devices 0,1,2,3,4,5,6,7
vllm serve deepseek-ai/DeepSeek-V3 --tensor-parallel-size 1 --data-parallel-size 32 \
  --enable-expert-parallel --all2all-backend deepep_low_latency --max-num-seqs 64 \
  --max-num-batched-tokens 8192 --max-model-len 163840 --kv-cache-dtype bfloat16 \
  --data-parallel-size-local 8 --data-parallel-address n0 --data-parallel-rpc-port 13345 \
  --headless --data-parallel-start-rank 16

# instance 0, node 3 of 4: host n3, devices 0,1,2,3,4,5,6,7
vllm serve deepseek-ai/DeepSeek-V3 --tensor-parallel-size 1 --data-parallel-size 32 \
  --enable-expert-parallel --all2all-backend deepep_low_latency --max-num-seqs 64 \
  --max-num-batched-tokens 8192 --max-model-len 163840 --kv-cache-dtype bfloat16 \
  --data-parallel-size-local 8 --data-parallel-address n0 --data-parallel-rpc-port 13345 \
  --headless --data-parallel-start-rank 24
