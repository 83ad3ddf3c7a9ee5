{{/* The processes: key in values → name in objects and images. */}}
{{- define "postroom.processes" -}}
api: api
inboundSmtp: inbound-smtp
outbound: outbound
imapSync: imap-sync
webhooks: webhooks
{{- end }}

{{- define "postroom.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 44 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 44 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 44 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{/* What selects all of this release's pods. */}}
{{- define "postroom.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "postroom.labels" -}}
{{ include "postroom.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* image of (list $ "api") */}}
{{- define "postroom.image" -}}
{{- $root := index . 0 }}
{{- printf "%s-%s:%s" $root.Values.image.repository (index . 1) (default $root.Chart.AppVersion $root.Values.image.tag) }}
{{- end }}

{{- define "postroom.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}
{{- default (include "postroom.fullname" .) .Values.serviceAccount.name }}
{{- else }}
{{- default "default" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{- define "postroom.secret" -}}
{{- default (include "postroom.fullname" .) .Values.secrets.existingSecret }}
{{- end }}

{{/* Settings that are no secrets, by name. */}}
{{- define "postroom.settings" -}}
{{- $s := dict "POSTROOM_HTTP__PUBLIC_URL" .Values.publicUrl "POSTROOM_SMTP__HOSTNAME" .Values.smtp.hostname }}
{{- $_ := set $s "POSTROOM_SMTP__PROXY_PROTOCOL" .Values.smtp.proxyProtocol }}
{{- $_ := set $s "POSTROOM_OUTBOUND__ROUTE" .Values.delivery.route }}
{{- $_ := set $s "POSTROOM_OUTBOUND__EHLO_NAME" (default .Values.smtp.hostname .Values.delivery.ehloName) }}
{{- $_ := set $s "POSTROOM_DOMAINS__MX_HOST" .Values.smtp.hostname }}
{{- with .Values.delivery.spf }}{{ $_ := set $s "POSTROOM_DOMAINS__SPF" . }}{{ end }}
{{- $_ := set $s "POSTROOM_LOG__FORMAT" .Values.log.format }}
{{- $_ := set $s "POSTROOM_LOG__LEVEL" .Values.log.level }}
{{- with .Values.trustedProxies }}{{ $_ := set $s "POSTROOM_HTTP__TRUSTED_PROXIES" (join "," .) }}{{ end }}
{{- with .Values.scanners.spamd }}{{ $_ := set $s "POSTROOM_SCANNERS__SPAMD" . }}{{ end }}
{{- with .Values.scanners.rspamd }}{{ $_ := set $s "POSTROOM_SCANNERS__RSPAMD" . }}{{ end }}
{{- with .Values.scanners.clamd }}{{ $_ := set $s "POSTROOM_SCANNERS__CLAMD" . }}{{ end }}
{{- with .Values.dns.nameservers }}{{ $_ := set $s "POSTROOM_DNS__NAMESERVERS" (join "," .) }}{{ end }}
{{- if eq .Values.delivery.route "smarthost" }}
{{- $_ := set $s "POSTROOM_OUTBOUND__SMARTHOST_HOST" .Values.delivery.smarthost.host }}
{{- $_ := set $s "POSTROOM_OUTBOUND__SMARTHOST_PORT" (toString .Values.delivery.smarthost.port) }}
{{- $_ := set $s "POSTROOM_OUTBOUND__SMARTHOST_TLS" .Values.delivery.smarthost.tls }}
{{- with .Values.delivery.smarthost.username }}{{ $_ := set $s "POSTROOM_OUTBOUND__SMARTHOST_USERNAME" . }}{{ end }}
{{- end }}
{{- with .Values.blobs.s3 }}
{{- if .bucket }}
{{- $_ := set $s "POSTROOM_BLOB__URL" (printf "s3://%s" (list .bucket (trimAll "/" .prefix) | compact | join "/")) }}
{{- $_ := set $s "POSTROOM_BLOB__S3_REGION" .region }}
{{- with .endpoint }}{{ $_ := set $s "POSTROOM_BLOB__S3_ENDPOINT" . }}{{ end }}
{{- else }}
{{- $_ := set $s "POSTROOM_BLOB__URL" "file:///var/lib/postroom/blobs" }}
{{- end }}
{{- end }}
{{- toYaml (mergeOverwrite $s .Values.settings) }}
{{- end }}

{{/* Secrets of every process, as environment. */}}
{{- define "postroom.secretEnv" -}}
{{- $secret := include "postroom.secret" . }}
{{- range $name, $key := dict "POSTROOM_ENCRYPTION_KEY" "encryption-key" "POSTROOM_DATABASE__URL" "database-url" "POSTROOM_REDIS__URL" "redis-url" }}
- name: {{ $name }}
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: {{ $key }}}}
{{- end }}
{{- range $name, $key := dict "POSTROOM_BLOB__S3_ACCESS_KEY" "s3-access-key" "POSTROOM_BLOB__S3_SECRET_KEY" "s3-secret-key" "POSTROOM_OUTBOUND__SMARTHOST_PASSWORD" "smarthost-password" "POSTROOM_METRICS_AUTH_TOKEN" "metrics-auth-token" "POSTROOM_SCANNERS__RSPAMD_PASSWORD" "rspamd-password" "POSTROOM_SCANNERS__SPAMHAUS_PASSWORD" "spamhaus-password" "POSTROOM_SCANNERS__AI_API_KEY" "ai-api-key" }}
- name: {{ $name }}
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: {{ $key }}, optional: true}}
{{- end }}
{{- end }}

{{- define "postroom.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.podSecurity.runAsUser }}
runAsGroup: {{ .Values.podSecurity.runAsGroup }}
fsGroup: {{ .Values.podSecurity.fsGroup }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "postroom.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "postroom.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
{{- end }}
