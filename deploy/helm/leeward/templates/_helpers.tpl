{{- define "leeward.name" -}}
{{ printf "%s-leeward" .Release.Name | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "leeward.labels" -}}
app.kubernetes.io/name: leeward
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Values.image.tag | default .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "leeward.selector" -}}
app.kubernetes.io/name: leeward
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .role }}
{{- end }}

{{- define "leeward.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}

{{- /* What both roles have in their pods. */}}
{{- define "leeward.pod" -}}
serviceAccountName: {{ include "leeward.name" .root }}
automountServiceAccountToken: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: { type: RuntimeDefault }
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels: {{- include "leeward.selector" . | nindent 8 }}
{{- with .root.Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .root.Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- define "leeward.env" -}}
- { name: LEEWARD_DIR, value: /var/lib/leeward }
- { name: LEEWARD_CONTEXT, value: /etc/leeward/{{ .role }}.json }
- { name: LEEWARD_VAULT, value: {{ required "vaultURL is missing: name the vault's store" .root.Values.vaultURL | quote }} }
- { name: LEEWARD_KEY_FILE, value: /run/secrets/vault/vault.key }
{{- with .root.Values.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "leeward.container" -}}
image: {{ include "leeward.image" .root | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: { drop: [ALL] }
ports:
  - { name: manage, containerPort: 8443 }
# 200 while the process lives; and when it can do its work.
livenessProbe:
  httpGet: { path: /healthz, port: manage, scheme: HTTPS }
  periodSeconds: 20
  failureThreshold: 6
readinessProbe:
  httpGet: { path: /readyz, port: manage, scheme: HTTPS }
  periodSeconds: 10
startupProbe:
  httpGet: { path: /healthz, port: manage, scheme: HTTPS }
  periodSeconds: 5
  failureThreshold: 36
{{- end }}

{{- define "leeward.mounts" -}}
- { name: state, mountPath: /var/lib/leeward }
- { name: context, mountPath: /etc/leeward, readOnly: true }
- { name: bus, mountPath: /run/secrets/bus, readOnly: true }
- { name: vault, mountPath: /run/secrets/vault, readOnly: true }
- { name: tmp, mountPath: /tmp }
{{- if .root.Values.secrets.metrics }}
- { name: metrics, mountPath: /var/lib/leeward/keys, readOnly: true }
{{- end }}
{{- with .root.Values.extraVolumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "leeward.volumes" -}}
- { name: context, configMap: { name: {{ include "leeward.name" .root }} } }
- { name: bus, secret: { secretName: {{ index .root.Values.secrets .role }}, defaultMode: 0440 } }
- { name: vault, secret: { secretName: {{ .root.Values.secrets.vault }}, defaultMode: 0440 } }
- { name: tmp, emptyDir: {} }
{{- with .root.Values.secrets.metrics }}
- { name: metrics, secret: { secretName: {{ . }}, defaultMode: 0440 } }
{{- end }}
{{- with .root.Values.extraVolumes }}
{{ toYaml . }}
{{- end }}
{{- end }}
