{{- define "fairlead.labels" -}}
app.kubernetes.io/name: fairlead
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}
{{- define "fairlead.secret" -}}
{{ .Values.adminSecret | default .Release.Name }}
{{- end -}}
{{- define "fairlead.config" -}}
{{- $own := dict "listeners" (list (dict "bind" "0.0.0.0:8080")) "admin" (dict "bind" "0.0.0.0:9900" "token" "${FAIRLEAD_ADMIN_TOKEN}") "shutdown" (dict "delay" (printf "%vs" .Values.shutdown.delay) "grace" (printf "%vs" .Values.shutdown.grace)) -}}
{{- mergeOverwrite $own .Values.config | toYaml -}}
{{- end -}}
