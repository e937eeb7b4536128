#!/usr/bin/env bash
# Builds the documentation as web pages that need neither server nor network.
#
#   bash jobs/docs.sh              into build/docs/ of the project
#   bash jobs/docs.sh FOLDER
set -euo pipefail
# shellcheck source=common.sh
source "$(dirname -- "${BASH_SOURCE[0]}")/common.sh"

bash "$ROOT/jobs/setup.sh" --docs
load_site
use_venv
folder=${1:-$ROOT/build/docs}
python -m sphinx --fail-on-warning --keep-going --quiet -d "$folder/.doctrees" "$ROOT/docs" "$folder"
say "documentation: $folder/index.html"
