// Package controllers stands in for sigs.k8s.io/mcs-api/controllers: Cilium's operator uses this one constant of it.
package controllers

// DerivedServiceAnnotation names the Service that a ServiceImport of several clusters stands for.
const DerivedServiceAnnotation = "multicluster.kubernetes.io/derived-service"
