// Package provisioner makes a PersistentVolume for each claim: a directory of the node
// that the scheduler chose, seen by the pods there as a local volume.
//
// It also accepts expansion: a directory has no size of its own, so a claim that asks
// for more gets it by name. That is a resizer's whole work here.
package provisioner

import (
	"context"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"
	"sigs.k8s.io/sig-storage-lib-external-provisioner/v13/controller"
)

const (
	retryAfter     = 500 * time.Millisecond
	resyncEvery    = 15 * time.Second
	expandTimeout  = 10 * time.Second
	directoryMode  = 0o777
	hostnameLabel  = "kubernetes.io/hostname"
	provisionerKey = "pv.kubernetes.io/provisioned-by"
)

type nodeDirectories struct {
	name   string // of the provisioner, as StorageClasses say it
	hostAt string // where this process sees node N's directory: a format with one %s
	nodeAt string // where the node itself sees it
}

// Main is the program: one process for the whole cluster, outside the nodes.
func Main() int {
	kubeconfig := flag.String("kubeconfig", "", "how to reach the API")
	name := flag.String("name", "sqlitecluster.dev/local", "name of the provisioner")
	hostAt := flag.String("host-path", "", "directory of a node as seen from here, with %s for the node")
	nodeAt := flag.String("node-path", "", "the same directory as the node sees it")
	flag.Parse()
	if err := run(*kubeconfig, nodeDirectories{*name, *hostAt, *nodeAt}); err != nil {
		fmt.Fprintln(os.Stderr, "provisioner:", err)
		return 1
	}
	return 0
}

func run(kubeconfig string, directories nodeDirectories) error {
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	ctx := context.Background()
	if err := startExpander(ctx, client, directories.name); err != nil {
		return err
	}
	made := controller.NewProvisionController(ctx, client, directories.name, directories,
		controller.LeaderElection(false),
		controller.RetryPeriod(retryAfter),
		controller.ResyncPeriod(resyncEvery),
		controller.FailedProvisionThreshold(0),
		controller.FailedDeleteThreshold(0))
	made.Run(ctx)
	return nil
}

func (d nodeDirectories) Provision(_ context.Context, options controller.ProvisionOptions) (
	*v1.PersistentVolume, controller.ProvisioningState, error,
) {
	if options.SelectedNodeName == "" {
		return nil, controller.ProvisioningFinished, fmt.Errorf("no node was chosen: WaitForFirstConsumer is needed")
	}
	node := options.SelectedNodeName
	path := filepath.Join(fmt.Sprintf(d.hostAt, node), options.PVName)
	if err := os.MkdirAll(path, directoryMode); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	if err := os.Chmod(path, directoryMode); err != nil {
		return nil, controller.ProvisioningFinished, err
	}
	return d.volume(options, node), controller.ProvisioningFinished, nil
}

func (d nodeDirectories) volume(options controller.ProvisionOptions, node string) *v1.PersistentVolume {
	affinity := v1.NodeSelectorRequirement{Key: hostnameLabel, Operator: v1.NodeSelectorOpIn, Values: []string{node}}
	return &v1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: options.PVName},
		Spec: v1.PersistentVolumeSpec{
			PersistentVolumeReclaimPolicy: *options.StorageClass.ReclaimPolicy,
			AccessModes:                   options.PVC.Spec.AccessModes,
			Capacity:                      v1.ResourceList{v1.ResourceStorage: options.PVC.Spec.Resources.Requests[v1.ResourceStorage]},
			PersistentVolumeSource: v1.PersistentVolumeSource{
				Local: &v1.LocalVolumeSource{Path: filepath.Join(d.nodeAt, options.PVName)},
			},
			NodeAffinity: &v1.VolumeNodeAffinity{Required: &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{
				{MatchExpressions: []v1.NodeSelectorRequirement{affinity}},
			}}},
		},
	}
}

func (d nodeDirectories) Delete(_ context.Context, volume *v1.PersistentVolume) error {
	terms := volume.Spec.NodeAffinity.Required.NodeSelectorTerms
	node := terms[0].MatchExpressions[0].Values[0]
	return os.RemoveAll(filepath.Join(fmt.Sprintf(d.hostAt, node), volume.Name))
}

// startExpander watches claims and grants those that ask for more than they have.
func startExpander(ctx context.Context, client kubernetes.Interface, provisioner string) error {
	factory := informers.NewSharedInformerFactory(client, resyncEvery)
	grant := func(object any) {
		claim, ok := object.(*v1.PersistentVolumeClaim)
		if !ok || !wantsMore(claim) {
			return
		}
		limited, cancel := context.WithTimeout(ctx, expandTimeout)
		defer cancel()
		if err := expand(limited, client, claim, provisioner); err != nil {
			klog.ErrorS(err, "expansion failed; it is tried again", "claim", klog.KObj(claim))
		}
	}
	_, err := factory.Core().V1().PersistentVolumeClaims().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    grant,
		UpdateFunc: func(_, object any) { grant(object) },
	})
	if err == nil {
		factory.Start(ctx.Done())
	}
	return err
}

func wantsMore(claim *v1.PersistentVolumeClaim) bool {
	wanted, granted := claim.Spec.Resources.Requests[v1.ResourceStorage], claim.Status.Capacity[v1.ResourceStorage]
	return claim.Status.Phase == v1.ClaimBound && wanted.Cmp(granted) > 0
}

func expand(ctx context.Context, client kubernetes.Interface, claim *v1.PersistentVolumeClaim, provisioner string) error {
	wanted := claim.Spec.Resources.Requests[v1.ResourceStorage]
	volume, err := client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	if err != nil || volume.Annotations[provisionerKey] != provisioner {
		return err
	}
	if have := volume.Spec.Capacity[v1.ResourceStorage]; have.Cmp(wanted) < 0 {
		volume.Spec.Capacity[v1.ResourceStorage] = wanted
		if _, err := client.CoreV1().PersistentVolumes().Update(ctx, volume, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	return grantCapacity(ctx, client, claim.DeepCopy(), wanted)
}

func grantCapacity(
	ctx context.Context, client kubernetes.Interface, claim *v1.PersistentVolumeClaim, wanted resource.Quantity,
) error {
	claim.Status.Capacity[v1.ResourceStorage] = wanted
	claim.Status.Conditions = nil
	_, err := client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{})
	return err
}
