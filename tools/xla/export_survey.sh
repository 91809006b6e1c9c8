# Exports what `tools/xla_step.py survey` times, of random teachers: 34 MB. A machine
# with jax and a GPU needs that and tools/. XLA first tries out kernels, for minutes;
# those that it takes without (--xla_gpu_autotune_level=0) are far too slow.
#   bash tools/xla/export_survey.sh OUT_DIR [python]
#   python tools/xla_step.py survey OUT_DIR
set -e
for networks in "full gin/paper/depth_edge2d.gin" "rooms gin/rooms/soka.gin"; do
for precision in "float32 float32" "mixed_bfloat16 bfloat16"; do
for steps in "alternating cycle" "simultaneous cycle teachers student joint naive"; do
  set -- "$1" "${2:-python}" $networks $precision $steps
  $2 tools/xla_step.py export --out="$1/$3_$5" --gin_file="$4" --random_teachers \
    --batch 4 16 64 --step "${@:8}" --gin_param="schedule.order = '$7'" \
    --gin_param="run.precision = '$5'" --gin_param="load_pool.precision = '$6'" \
    --gin_param="schedule.joint_amalgamation = True" \
    --gin_param="build_adversary.enabled = False"
done; done; done
