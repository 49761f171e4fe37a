# Source this (bash, zsh, or dash from this folder): a shell in which `vlaforget` and the nodes run.
#     . ./activate.sh
# On a robot with ROS 2 from apt source the workspace's install/setup.bash instead.

if [ -n "${BASH_SOURCE:-}" ]; then
  _vf_file="${BASH_SOURCE}"
elif [ -n "${ZSH_VERSION:-}" ]; then
  eval '_vf_file="${(%):-%x}"'
else
  _vf_file="./activate.sh"  # plain sh cannot name the file being sourced
fi
_vf_root="$(cd "$(dirname "$_vf_file")" 2>/dev/null && pwd -P)"

_vf_prepend() {  # _vf_prepend VARIABLE DIRECTORY: once, at the front
  eval "_vf_old=\${$1:-}"
  case ":$_vf_old:" in
    *":$2:"*) ;;
    *) eval "export $1=\"\$2\${_vf_old:+:\$_vf_old}\"" ;;
  esac
}

if [ ! -x "$_vf_root/.venv/bin/python" ] || [ ! -d "$_vf_root/install/vlaforget_ros" ]; then
  echo "activate.sh: $_vf_root is not set up yet. Run: make -C \"$_vf_root\" build" >&2
  unset _vf_file _vf_root _vf_old
  unset -f _vf_prepend
  return 1 2>/dev/null || exit 1
fi

_vf_install="$_vf_root/install/vlaforget_ros"
for _vf_prefix in "$_vf_root/.venv" "$_vf_install"; do
  _vf_prepend AMENT_PREFIX_PATH "$_vf_prefix"
  _vf_prepend CMAKE_PREFIX_PATH "$_vf_prefix"
done
for _vf_packages in "$_vf_install"/lib/python3*/site-packages; do
  _vf_prepend PYTHONPATH "$_vf_packages"
done
_vf_prepend LD_LIBRARY_PATH "$_vf_install/lib"
_vf_prepend PATH "$_vf_root/.venv/bin"
_vf_prepend PATH "$_vf_install/lib/vlaforget_ros"  # the nodes
_vf_prepend PATH "$_vf_install/bin"                # the vlaforget command

export VIRTUAL_ENV="$_vf_root/.venv"
export VLAFORGET_ROOT="$_vf_root"
export MUJOCO_GL="${MUJOCO_GL:-osmesa}"  # software rendering: needs no display and no GPU
export PYTHONNOUSERSITE=1

unset _vf_file _vf_root _vf_old _vf_prefix _vf_packages _vf_install
unset -f _vf_prepend
