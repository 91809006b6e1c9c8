#!/bin/bash
# Exports what `tools/xla_step.py survey` is for: steps at full size and at the rooms',
# in two precisions and both orders, with random teachers. What it writes (40 MB) is
# taken, with tools/ and no TensorFlow, to a machine that has jax and a GPU:
#   bash tools/xla/export_survey.sh OUT_DIR [python]
#   XLA_FLAGS=--xla_gpu_autotune_level=0 python tools/xla_step.py survey OUT_DIR
# Without XLA_FLAGS convolutions are chosen by trying; that takes minutes a row.
set -e
out=$1 python=${2:-python}
export_steps() { # networks, its gin file, precision, teachers' precision, order, steps
  $python tools/xla_step.py export --out="$out/$1_$3" --gin_file="$2" \
    --gin_param="run.precision = '$3'" --gin_param="load_pool.precision = '$4'" \
    --gin_param="schedule.order = '$5'" --random_teachers "${@:6}" \
    --gin_param="schedule.joint_amalgamation = True" \
    --gin_param="build_adversary.enabled = False"
}
more=(--step=joint --step=student --step=teachers --step=cycle)
for precision in "float32 float32" "mixed_bfloat16 bfloat16"; do
  for networks in "full gin/paper/depth_edge2d.gin" "rooms gin/rooms/soka.gin"; do
    sizes=(--batch=4 --batch=16 --batch=64)
    export_steps $networks $precision simultaneous "${more[@]}" "${sizes[@]}"
    export_steps $networks $precision alternating --step=cycle "${sizes[@]}"
    export_steps $networks $precision simultaneous --step=naive --batch=16
  done
done
