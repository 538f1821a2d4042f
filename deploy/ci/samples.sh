#!/usr/bin/env bash
# Looks at what is shipped for other tools with those tools, without a cluster and without a
# cloud: the Helm chart with helm, the rules for Prometheus with promtool, the Terraform sample
# with HashiCorp's own parser. helm and the parser are built from the module proxy, in the
# versions that deploy/tools pins; the first time that takes minutes. promtool comes from Debian
# (need.sh). Whether the alerts fire, and whether the samples for Azure name what there is,
# is in make test.
set -euo pipefail
cd "$(dirname "$0")/../.."
go=${GO:-go} out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT
fail() { echo "samples: FAILED: $*" >&2; exit 1; }
tools=${XDG_CACHE_HOME:-$HOME/.cache}/leeward
tool() { # tool NAME MODFILE PACKAGE: builds it once for each version, and says where it is
	local at
	at=$tools/$1-$(sha256sum <"deploy/tools/${2%.mod}.sum" | cut -c1-12)
	if [ ! -x "$at" ]; then
		mkdir -p "$tools"
		echo "samples: building $1" >&2
		CGO_ENABLED=0 "$go" build -modfile="deploy/tools/$2" -trimpath -buildvcs=false -ldflags '-s -w' -o "$at.$$" "$3" || fail "$1 cannot be built"
		mv "$at.$$" "$at"
	fi
	echo "$at"
}

helm=$(tool helm helm.mod helm.sh/helm/v3/cmd/helm)
chart=deploy/helm/leeward
must=(--set natsURL=tls://n1:4222 --set vaultURL=azure://a/c)
all=("${must[@]}" --set secrets.trust=t,secrets.metrics=m,metrics.podMonitor=true,process.autoscaling.enabled=true,control.advertise=dr:443
	--set 'imagePullSecrets[0].name=pull,nodeSelector.disk=ssd,tolerations[0].operator=Exists,extraEnv[0].name=A,extraEnv[0].value=b'
	--set 'extraVolumes[0].name=v,extraVolumes[0].emptyDir.medium=Memory,extraVolumeMounts[0].name=v,extraVolumeMounts[0].mountPath=/v,podLabels.a=b,serviceAccount.annotations.a=b')
"$helm" lint --strict --quiet "$chart" "${must[@]}" || fail "helm lint"
"$helm" lint --strict --quiet "$chart" "${all[@]}" || fail "helm lint with everything"
for v in 1.28.0 1.31.0; do
	"$helm" template dr "$chart" --kube-version $v "${must[@]}" >"$out/least.yaml" || fail "helm template"
	"$helm" template dr "$chart" --kube-version $v "${all[@]}" >"$out/all.yaml" || fail "helm template with everything"
done
kinds() { sed -n 's/^kind: //p' "$1" | sort | uniq -c | awk '{printf "%s%s %s", s, $1, $2; s=", "}'; }
[ "$(kinds "$out/least.yaml")" = "1 ConfigMap, 2 Deployment, 2 PodDisruptionBudget, 1 Service, 1 ServiceAccount" ] || fail "the chart makes $(kinds "$out/least.yaml")"
[ "$(kinds "$out/all.yaml")" = "1 ConfigMap, 2 Deployment, 1 HorizontalPodAutoscaler, 2 PodDisruptionBudget, 1 PodMonitor, 1 Service, 1 ServiceAccount" ] || fail "with everything it makes $(kinds "$out/all.yaml")"
for what in natsURL vaultURL; do
	said=$("$helm" template dr "$chart" --kube-version 1.31.0 "${must[@]}" --set $what= 2>&1) && fail "the chart goes without $what"
	grep -q "$what is missing" <<<"$said" || fail "without $what it says: $said"
done
echo "samples: the chart is linted and rendered: $(kinds "$out/all.yaml")"

promtool=$(command -v promtool || echo "$tools/promtool")
"$promtool" check rules deploy/prometheus/rules.yaml >"$out/rules" 2>&1 || { cat "$out/rules" >&2; fail "promtool check rules"; }
echo "samples: promtool: $(grep -o '[0-9]* rules found' "$out/rules")"

hclfmt=$(tool hclfmt hcl.mod github.com/hashicorp/hcl/v2/cmd/hclfmt)
"$hclfmt" -check deploy/azure/main.tf >/dev/null || fail "deploy/azure/main.tf is not as HashiCorp's parser wants it"
! printf 'resource "a" {\n' | "$hclfmt" -check >/dev/null 2>&1 || fail "hclfmt takes anything"
echo "samples: the Terraform sample parses. Its provider's schema and Bicep's compiler cannot be had from here: not checked with those"
